"""What happens to an X-ray when a sample is made: augmentation, lung alignment, pose perturbation."""
