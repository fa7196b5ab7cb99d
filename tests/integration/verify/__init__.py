"""Tests of verification on real servers."""
