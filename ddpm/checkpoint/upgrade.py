"""Checkpoints of older versions, with the present names of parts, classes and constructor arguments."""

from ddpm.registry import RENAMED_CLASSES, RENAMED_PARTS, upgrade_config


def upgrade(content: dict) -> dict:
    """The content of a checkpoint (`header`, `state_dict`, …) with present names; without a header as it is."""
    header = content.get("header")
    if not isinstance(header, dict):
        return content
    components, prefixes = {}, {}
    for name, entry in header["components"].items():
        class_name = RENAMED_CLASSES.get(entry.get("class"), entry.get("class"))
        entry = {**entry, "class": class_name, "config": upgrade_config(class_name, entry["config"])}
        if (new := RENAMED_PARTS.get(name, name)) != name:
            prefixes[f"{name}."] = f"{new}."
            entry["prefix"] = prefixes.get(entry.get("prefix"), entry.get("prefix", ""))
        components[new] = entry
    content = {**content, "header": {**header, "components": components}}
    for table in ("state_dict", "ema"):
        for old, new in prefixes.items() if isinstance(content.get(table), dict) else ():
            renamed = {k: new + k.removeprefix(old) if k.startswith(old) else k for k in content[table]}
            content[table] = {renamed[key]: value for key, value in content[table].items()}
    return content
