"""The one exception that reaches the user as a line instead of a traceback."""

from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """A mistake that the user can mend: one line with the file or key, the value found and the remedy.

    `common.cli.command` prints the line and exits with code 1.
    """

    def __init__(self, message: str):
        super().__init__(" ".join(str(message).split()))


@contextmanager
def user_errors() -> Iterator[None]:
    """Around the building of objects from a config: what a constructor refuses is the user's to mend."""
    try:
        yield
    except (ValueError, ImportError) as error:
        raise UserError(str(error)) from error


def user_message(message: str) -> str:
    """The user's line of an error that a loading process raised, which arrives with that process's traceback."""
    return message.rpartition(f"{UserError.__module__}.{UserError.__name__}: ")[2] if "Caught" in message else message


def worker_killed(error: BaseException) -> bool:
    """Whether a loading process was ended from outside, as torch's `DataLoader` words it."""
    return "DataLoader worker" in str(error) and ("killed" in str(error) or "exited unexpectedly" in str(error))
