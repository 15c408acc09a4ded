"""Analytic chest phantoms: anatomy, vessels, emboli, and rendering to HU."""
