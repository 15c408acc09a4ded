"""The blinded reader study: its folder, its design, what readers answered, and what may be concluded from that."""
