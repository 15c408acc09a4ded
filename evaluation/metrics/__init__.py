"""Metrics of one volume against another: pure functions on tensors, and `METRICS` tuples for the catalogue."""
