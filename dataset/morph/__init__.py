"""Synthetic patients from few CTs: registration to one another, and random recombinations of shapes."""
