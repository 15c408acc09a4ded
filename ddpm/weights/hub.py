"""Files of the Hugging Face hub: from the cache, else from the hub in one attempt of a few seconds."""

from pathlib import Path

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

PATIENCE_S = 5.0


def hub_file(hub_id: str, *names: str) -> Path:
    """The first of the files `names`, such as `vae/config.json`, in the cache; if none is there, the first in the hub.

    Raises:
        LocalEntryNotFoundError: none is in the cache, and the hub is out of reach or `HF_HUB_OFFLINE` is set.
        EntryNotFoundError, HfHubHTTPError: the hub has none of the files, or refuses access.
        HFValidationError: `hub_id` cannot be a hub id.
    """
    for name in names:
        try:
            return Path(hf_hub_download(hub_id, name, local_files_only=True))
        except EntryNotFoundError:
            continue
    for name in names:
        try:
            return _download(hub_id, name)
        except LocalEntryNotFoundError:
            raise
        except EntryNotFoundError as error:
            missing = error
    raise missing


def _download(hub_id: str, name: str) -> Path:
    """Downloads after one request without retries succeeds: `hf_hub_download` alone retries for 24 s."""
    if constants.HF_HUB_OFFLINE:
        raise LocalEntryNotFoundError("HF_HUB_OFFLINE is set")
    try:
        get_hf_file_metadata(hf_hub_url(hub_id, name, endpoint=constants.ENDPOINT), timeout=PATIENCE_S)
    except (HfHubHTTPError, HFValidationError):
        raise
    except Exception as error:  # of the HTTP library, which changes with the version of huggingface_hub
        raise LocalEntryNotFoundError(f"{constants.ENDPOINT} cannot be reached: {error}") from error
    return Path(hf_hub_download(hub_id, name, etag_timeout=PATIENCE_S))


def why_missing(key: str, hub_id: str, kind: str, files: str, error: Exception) -> str:
    """One line on why `hub_file` did not find `key=hub_id`, or a local path of this `kind`, and how to get `files`."""
    absent = f"{key}={hub_id}: no such {kind} ({Path(hub_id).absolute()})"
    if isinstance(error, HFValidationError):  # not a hub id, so a path
        return absent
    if constants.HF_HUB_OFFLINE:
        reason = "HF_HUB_OFFLINE=1 disables the hub"
    elif isinstance(error, HfHubHTTPError):  # no such repository or file, or a login is needed
        reason = f"the hub refuses it ({type(error).__name__})"
    else:
        reason = "the hub cannot be reached"
    return (
        f"{absent}, not in the Hugging Face cache ({constants.HF_HUB_CACHE}), and {reason}. Two ways: on a machine "
        f"with a network run hf download {hub_id} {files} and copy its cache to that folder or set HF_HOME"
    )
