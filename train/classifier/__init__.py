"""The classifier stage: data, networks, module."""
