"""Scores volumes and baselines case by case, and summarises the scores."""
