"""The web page of the reader study."""
