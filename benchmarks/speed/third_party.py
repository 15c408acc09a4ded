"""Third-party libraries of the comparison; missing ones are installed."""

import subprocess
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("requirements.txt").read_text().split()  # `name>=version` each


class ThirdPartyMissing(RuntimeError):
    """A library is missing and could not be installed."""


def versions() -> dict[str, str]:
    """Installed libraries of `requirements.txt` with their versions."""
    found = {}
    for name in (line.partition(">=")[0] for line in REQUIREMENTS):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def missing() -> list[str]:
    """Lines of `requirements.txt` whose distribution is not installed."""
    installed = versions()
    return [line for line in REQUIREMENTS if line.partition(">=")[0] not in installed]


def install_missing() -> None:
    """Installs missing libraries into the running environment and prints their names, or raises ThirdPartyMissing."""
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
