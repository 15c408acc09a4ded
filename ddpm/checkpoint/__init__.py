"""Checkpoints: header, reading, writing, and the models that are rebuilt from one."""
