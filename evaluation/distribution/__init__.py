"""Distances between populations of generated and true volumes."""
