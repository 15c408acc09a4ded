"""Compares classifiers on real CTPA, X-rays and generated CTPA."""
