"""Devices, processes, signals and Slurm."""
