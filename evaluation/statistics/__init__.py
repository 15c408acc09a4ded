"""Intervals, tests and diagnostic statistics."""
