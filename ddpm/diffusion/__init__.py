"""Noise schedule, training objective, samplers and their noise."""
