"""Pretrained weights from files and hubs, loaded without executing code, with their licences."""
