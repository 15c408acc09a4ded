"""Scores volumes case by case beside the baselines, and summarises them."""
