"""Checkpoints of older versions, with the names of today."""

from ddpm.registry import RENAMED_CLASSES, RENAMED_PARTS, upgrade_config


def upgrade(content: dict) -> dict:
    """Content of a checkpoint with today's names of parts, classes and constructor arguments.

    Args:
        content: `header` and `state_dict`, and what else training wrote. Returned as it is where no name changed.
    """
    header = content.get("header")
    if not isinstance(header, dict):
        return content
    components, prefixes = {}, {}
    for name, entry in header["components"].items():
        class_name = RENAMED_CLASSES.get(entry.get("class"), entry.get("class"))
        entry = {**entry, "class": class_name, "config": upgrade_config(class_name, entry["config"])}
        new = RENAMED_PARTS.get(name, name)
        if new != name:
            prefixes[f"{name}."] = f"{new}."
            entry["prefix"] = prefixes.get(entry.get("prefix"), entry.get("prefix", ""))
        components[new] = entry
    content = {**content, "header": {**header, "components": components}}
    for table in ("state_dict", "ema"):
        if prefixes and isinstance(content.get(table), dict):
            content[table] = {_renamed(key, prefixes): value for key, value in content[table].items()}
    return content


def _renamed(key: str, prefixes: dict[str, str]) -> str:
    for old, new in prefixes.items():
        if key.startswith(old):
            return new + key.removeprefix(old)
    return key
