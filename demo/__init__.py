"""The web demo: an X-ray in, a synthetic CT to look at out, and the page of the reader study; all on this machine."""
