"""Drawn chests: anatomy, vessels, emboli, and their rendering to HU."""
