"""Checks uploaded files before they are read."""
