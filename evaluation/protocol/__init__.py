"""Checks before results are compared: patient leakage, protocols, data."""
