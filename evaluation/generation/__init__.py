"""Generates volumes from X-rays with a trained pipeline and writes them."""
