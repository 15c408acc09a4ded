"""Config keys that have another name than in earlier versions."""

KEPT: dict[str, str] = {}  # old key: new key. The old one still works; a line names the new one

# Old key: new key. The old one ends the command with a line that names the new one.
MOVED: dict[str, str] = {"voi": "crop_box"}
