"""Files of the Hugging Face hub: from the cache, else from the hub in one attempt of a few seconds; and uploads."""

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import HfApi, constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from huggingface_hub.utils import validate_repo_id

from common.errors import UserError

PATIENCE_S = 5.0
HUB_OPTIONS = ("repo_id", "private", "token", "commit_message", "create_pr")  # of `save_pretrained` in diffusers


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


def expect_hub_id(key: str, hub_id: str) -> None:
    """Raises a `UserError` for a name that cannot be that of a repository, and where the hub is disabled."""
    try:
        validate_repo_id(hub_id)
    except HFValidationError as error:
        raise UserError(f"{key}={hub_id}: no name of a repository; give <user or organisation>/<name>") from error
    if constants.HF_HUB_OFFLINE:
        raise UserError(f"{key}={hub_id}: HF_HUB_OFFLINE=1 disables the hub; unset it, or upload the folder by hand")


def take_hub_options(options: dict, folder: str | Path, upload_follows: bool) -> dict:
    """Removes `repo_id` (default: the name of the folder), `private`, `token`, `commit_message` and `create_pr`.

    Returns them as arguments of `upload`; UserError for a wrong `repo_id` if an upload follows.
    """
    given = {name: options.pop(name) for name in HUB_OPTIONS if name in options}
    message = given.pop("commit_message", None)
    hub_id = str(given.pop("repo_id", Path(folder).absolute().name))
    if upload_follows:
        expect_hub_id("repo_id", hub_id)
    return {"hub_id": hub_id, **given, **({"message": message} if message else {})}


def upload(
    folder: str | Path,
    hub_id: str,
    files: Sequence[str] | None = None,
    private: bool | None = None,
    token: str | None = None,
    message: str = "Upload xray2ct",
    create_pr: bool = False,
) -> str:
    """Uploads a folder as one commit and returns its address; the repository is created if it does not exist.

    Args:
        files: patterns of the files to upload; None uploads all.
        private: of a new repository; None leaves it to the account.
        token: None takes that of `hf auth login`.

    Raises:
        UserError: the hub cannot be reached or refuses the upload.
    """
    api = HfApi(token=token)
    try:
        repository = api.create_repo(hub_id, exist_ok=True, private=private).repo_id
        options = {"allow_patterns": files, "commit_message": message, "create_pr": create_pr}
        return str(api.upload_folder(repo_id=repository, folder_path=str(folder), **options))
    except Exception as error:  # of the HTTP library, which changes with the version of huggingface_hub
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"{hub_id}: not uploaded ({reason}); log in with hf auth login, or upload {folder} later with hf upload"
        ) from error
