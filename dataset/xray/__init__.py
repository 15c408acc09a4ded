"""Processing of X-rays in a sample: augmentation, lung alignment, pose perturbation."""
