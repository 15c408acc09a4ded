"""Prediction intervals of volumes, by tissue and organ."""
