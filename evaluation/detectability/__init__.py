"""Measures which lesions a generated volume keeps."""
