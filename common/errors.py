"""The exception that a command prints as one line instead of a traceback."""

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

EXTRAS = {  # module: the extra of pyproject.toml that installs it
    **dict.fromkeys(("gradio", "gradio_client", "fastapi", "uvicorn", "starlette"), "demo"),
    **dict.fromkeys(("open_clip", "transformers", "torchxrayvision"), "encoders"),
}


class UserError(Exception):
    """An error that the user can fix: one line with the file or key, the value found and the remedy.

    `common.cli.command` prints the line and exits with code 1.
    """

    def __init__(self, message: str):
        super().__init__(" ".join(str(message).split()))


@contextmanager
def user_errors() -> Iterator[None]:
    """Turns ValueError and ImportError, as constructors raise them for config values, into UserError."""
    try:
        yield
    except (ValueError, ImportError) as error:
        raise UserError(str(error)) from error


def import_message(error: ImportError) -> str | None:
    """How to install the package whose module is missing; None for a module that no extra installs."""
    module = (error.name or "").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError) or module not in EXTRAS:
        return None
    extra = EXTRAS[module]
    return f"{module} is not installed; pip install '.[{extra}]' in the folder of xray2ct installs what it needs"


def user_message(message: str) -> str:
    """The UserError line inside the traceback of a DataLoader worker; other messages unchanged."""
    return message.rpartition(f"{UserError.__module__}.{UserError.__name__}: ")[2] if "Caught" in message else message


def commands_as_installed(text: str) -> str:
    """A text in which `python train/train_ddpm.py` is `xray2ct-train-ddpm` if a console script runs."""
    if not Path(sys.argv[0]).name.startswith("xray2ct-"):
        return text
    name = r"\b(?:python )?(?:dataset|train|evaluation)/(\w+)\.py"
    return re.sub(name, lambda found: f"xray2ct-{found[1].replace('_', '-')}", text)


def worker_killed(error: BaseException) -> BaseException | None:
    """The error that shows that a DataLoader worker was killed from outside: `error` or one of its causes; else None.

    torch raises its own from a signal handler, so at any statement, where a library may catch it and raise another;
    or the pipe breaks through which the worker was sending. An error of the worker's own code begins with "Caught".
    """
    found: BaseException | None = error
    while found is not None:
        text = str(found)
        if "DataLoader worker" in text and ("killed" in text or "exited unexpectedly" in text):
            return found
        if isinstance(found, (ConnectionError, EOFError)) and not text.startswith("Caught"):
            return found
        found = found.__cause__ or found.__context__
    return None


@contextmanager
def quiet(name: str) -> Iterator[None]:
    """Without the messages of a library about errors that it raises too."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)
