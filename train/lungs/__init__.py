"""The lung network of X-rays: DRRs with lung masks, their augmentation, and the module that trains it."""
