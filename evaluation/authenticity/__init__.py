"""Compares generated volumes with the training cases: whether they repeat one."""
