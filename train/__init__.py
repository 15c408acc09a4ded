"""Training commands and what only they need: devices, run folders, checkpoints on disk, callbacks."""
