"""Loss terms of the generator."""
