"""What all folders need and what knows nothing of chests: errors, the command decorator, files, seeds."""
