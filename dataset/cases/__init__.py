"""Prepared cases: CT, X-ray and pose in one file on disk, and the data set that reads them."""
