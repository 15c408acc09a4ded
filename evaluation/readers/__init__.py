"""The blinded reader study: its folder, its design, the answers and their analysis."""
