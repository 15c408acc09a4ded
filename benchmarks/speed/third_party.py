"""Third-party libraries of the comparison; missing ones are installed."""

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("requirements.txt")


class ThirdPartyMissing(RuntimeError):
    """A library is missing and could not be installed."""


def names() -> list[str]:
    """Distribution names of `requirements.txt`."""
    lines = (re.sub(r"#.*", "", line).strip() for line in REQUIREMENTS.read_text().splitlines())
    return [re.match(r"[\w.-]+", line).group() for line in lines if line]


def missing() -> list[str]:
    """Lines of `requirements.txt` whose distribution is not installed."""
    lines = [line for line in REQUIREMENTS.read_text().splitlines() if line.strip() and not line.startswith("#")]
    return [line for line, name in zip(lines, names(), strict=True) if not _is_installed(name)]


def install_missing() -> None:
    """Installs missing libraries into the running environment and prints their names.

    Raises:
        ThirdPartyMissing: if the installer fails.
    """
    wanted = missing()
    if not wanted:
        return
    print(f"installing missing third-party libraries: {', '.join(wanted)}", flush=True)
    done = subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *wanted], capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ThirdPartyMissing(
            f"pip install {' '.join(wanted)}: {last}; install them by hand, every row needs all of them"
        )


def versions() -> dict[str, str]:
    """Installed versions of the libraries."""
    return {name: importlib.metadata.version(name) for name in names() if _is_installed(name)}


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
