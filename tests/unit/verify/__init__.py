"""Tests of verification without servers."""
