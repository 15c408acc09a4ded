"""Exports a trained generator with its model card."""
