"""Plug-ins: finding them, starting and stopping their processes, connecting to those that others run."""
