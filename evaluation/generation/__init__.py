"""Reads X-rays, generates volumes with a trained pipeline and writes them."""
