"""Calibrates prediction intervals on validation cases."""
