"""Projection consistency of films, whose grey scale and pose are unknown."""
