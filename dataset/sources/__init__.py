"""Where cases come from: a folder of files, or drawn phantoms."""
