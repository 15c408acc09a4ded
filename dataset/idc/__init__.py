"""Public pairs of radiograph and CT from the Imaging Data Commons: selection from its index, and download."""
