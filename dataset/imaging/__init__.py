"""CT volumes in HU and DRRs: geometry, HU windows, resampling, rendering, lungs, iodine."""
