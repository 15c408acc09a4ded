"""Classifiers of CT volumes and of X-rays."""
