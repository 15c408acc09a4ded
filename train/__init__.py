"""Training commands with their devices, run folders, checkpoint files and callbacks."""
