"""The table of a data set (manifest.csv) and its splits by patient."""
