"""Metrics of organs by their masks: overlap, volume, place, surface, and measures of the thorax."""
