"""Results of a benchmark that is resumed: a folder keeps those of one setting."""

import json
from pathlib import Path


def expect_same(folder: Path, settings: dict) -> None:
    """Writes `settings.json` into a folder without one; SystemExit if the folder has results of other settings."""
    file = folder / "settings.json"
    if not file.exists():
        if any(folder.iterdir()):
            raise SystemExit(f"{folder}: results of unknown settings; give another --output")
        file.write_text(json.dumps(settings, indent=1) + "\n")
    found = json.loads(file.read_text())
    if other := [key for key in {**found, **settings} if found.get(key) != settings.get(key)]:
        was = ", ".join(f"{key} was {found.get(key)}, is {settings.get(key)}" for key in other)
        raise SystemExit(f"{folder}: results of other settings ({was}); give another --output")
