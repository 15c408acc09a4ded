"""Volumes in HU and X-rays rendered from them: geometry, HU windows, resampling, DRRs, lungs, iodine."""
