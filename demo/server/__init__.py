"""The web server: app, security, launch."""
