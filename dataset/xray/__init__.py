"""Processing of X-rays when a sample is made: augmentation, lung alignment, pose perturbation."""
