"""Checkpoints: header, reading, writing, and the models that one holds."""
