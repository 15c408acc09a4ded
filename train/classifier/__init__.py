"""What only the classifier stage needs: module, data, networks."""
