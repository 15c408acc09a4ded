"""Slices, sheets and animations of volumes in radiological convention."""
