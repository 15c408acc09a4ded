"""Help of a command from the comments of its yaml files."""

import re
from collections.abc import Iterator
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from common.files import ROOT

CONFIG = ROOT / "config"
SECRET = "oc.env"  # a value from the environment is not shown


def help_text(config_name: str, overrides: list[str]) -> str:
    """Every option of a command with its value and its yaml comment."""
    with initialize_config_dir(str(CONFIG), version_base="1.3"):
        cfg = compose(config_name, overrides, return_hydra_config=True)
    choices = {k: v for k, v in cfg.hydra.runtime.choices.items() if not k.startswith("hydra/")}
    options = f"Options are written key=value.{' Groups:' if choices else ''}"
    lines = [first_comment(CONFIG / f"{config_name}.yaml"), "", options]
    for group, chosen in choices.items():
        names = sorted(p.stem for p in (CONFIG / group.partition("@")[0]).glob("*.yaml"))
        if "@" not in group or len(names) > 1:
            lines.append(f"  {group}={chosen}".ljust(34) + f"# one of {', '.join(names)}")
    files = [("", CONFIG / f"{config_name}.yaml")]
    for group, chosen in choices.items():
        folder = group.partition("@")[0]
        if chosen and folder != "experiment":
            file = CONFIG / folder / f"{chosen}.yaml"
            files.append((f"{_package(file) or folder.replace('/', '.')}.", file))
    shown = OmegaConf.to_container(cfg, resolve=False)
    for package, file in files:
        comments = {f"{package}{key}": c for source in _with_bases(file) for key, c in comments_of(source)}
        if comments:
            lines += ["", f"{file.relative_to(CONFIG)}: {first_comment(file)}"]
        for key, comment in comments.items():
            raw = _at(shown, key)
            value = raw if SECRET in str(raw) else OmegaConf.select(cfg, key, throw_on_missing=False)
            if not OmegaConf.is_dict(value):
                lines.append(f"  {key}={'null' if value is None else value}".ljust(60) + f" # {comment}")
    return "\n".join(lines)


def _at(tree: dict, key: str):
    """The value of a dotted key; None without it."""
    for name in key.split("."):
        tree = tree.get(name) if isinstance(tree, dict) else None
    return tree


def _package(file: Path) -> str | None:
    """The package that a yaml names for itself in its first line."""
    found = re.match(r"# @package ([\w.]+)", file.read_text(encoding="utf-8"))
    return found and found.group(1)


def _with_bases(file: Path) -> list[Path]:
    """The yaml files in the defaults list of a yaml, in order, and the yaml itself."""
    names = [name for name in OmegaConf.load(file).get("defaults", []) if isinstance(name, str) and name != "_self_"]
    bases = [file.parent / f"{name}.yaml" for name in names]
    return [*(found for base in bases if base.is_file() for found in _with_bases(base)), file]


def first_comment(file: Path) -> str:
    """What a yaml says of itself."""
    lines = file.read_text(encoding="utf-8").splitlines()
    first = next((line for line in lines if line.startswith("# ") and "@package" not in line), "")
    return first.removeprefix("# ")


def comments_of(file: Path) -> Iterator[tuple[str, str]]:
    """`(dotted key, comment)` of every line `key: value # comment` of a yaml file."""
    path = []
    for line in file.read_text(encoding="utf-8").splitlines():
        match = re.match(r"^( *)([A-Za-z_]\w*):(.*?)(?:\s# (.*))?$", line)
        if match and match.group(2) != "defaults":
            path = [*path[: len(match.group(1)) // 2], match.group(2)]
            if match.group(4):
                yield ".".join(path), match.group(4)
