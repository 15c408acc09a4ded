"""From hospital exports to a training set: what `dataset/prepare.py` does, one step a file."""
