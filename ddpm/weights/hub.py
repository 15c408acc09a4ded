"""Files of the Hugging Face hub: out of the cache where they are there, else one try to reach the hub, in seconds."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import LocalEntryNotFoundError
from huggingface_hub.utils import logging

PATIENCE_S = 5.0


def cached_file(hub_id: str, name: str, subfolder: str | None = None) -> Path:
    """A file that an earlier download has left; asks nobody.

    Raises:
        LocalEntryNotFoundError: where it is not in the cache.
    """
    return Path(hf_hub_download(hub_id, name, subfolder=subfolder, local_files_only=True))


def hub_file(hub_id: str, name: str, subfolder: str | None = None) -> Path:
    """A file out of the cache, else from the hub.

    Raises:
        LocalEntryNotFoundError: not in the cache, and the hub closed or out of reach.
        EntryNotFoundError, HfHubHTTPError: the hub has no such file or refuses it.
        HFValidationError: what is given cannot be a hub id.
    """
    try:
        return cached_file(hub_id, name, subfolder)
    except LocalEntryNotFoundError:
        expect_hub()
    with quiet():
        return Path(hf_hub_download(hub_id, name, subfolder=subfolder))


def expect_hub() -> None:
    """One question to the hub: its library would ask for half a minute, with a line for every try.

    Raises:
        LocalEntryNotFoundError: nobody answers within `PATIENCE_S`, or `HF_HUB_OFFLINE` is set.
    """
    if constants.HF_HUB_OFFLINE:
        raise LocalEntryNotFoundError("HF_HUB_OFFLINE is set")
    try:
        with urlopen(Request(constants.ENDPOINT, method="HEAD"), timeout=PATIENCE_S):
            return
    except HTTPError:
        return  # it has answered
    except OSError as error:
        # Certificates are the library's to judge: only a connection that was not made is final.
        if not isinstance(getattr(error, "reason", error), ssl.SSLError):
            raise LocalEntryNotFoundError(f"{constants.ENDPOINT} cannot be reached: {error}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """The hub's library reports nothing below an error; what it raises is told in one line by the caller."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
