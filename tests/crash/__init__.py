"""Processes are killed, paused and cut off at every named step; what arrived is then counted."""
