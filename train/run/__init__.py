"""One training run: its folder, record, trainer, checkpoints, memory."""
