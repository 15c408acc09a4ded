"""The lung network of X-rays: DRRs with lung masks, augmentation and training; and the lung guide of a generator."""
