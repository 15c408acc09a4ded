"""The web API: `/look` and `/generate` for `gradio_client`, over the same service as the page."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gradio as gr

from common.errors import UserError
from demo.service.messages import GenerationRequest, Progress, Result
from demo.service.service import Service


def add_api(page: gr.Blocks, service: Service) -> gr.Blocks:
    """Adds both events to a page.

    `/generate` gives `{"progress": {…}}` while it works and `{"result": {…}}` at last; `urls` in it are addresses on
    this server.
    """

    def look(xray: dict, view: str = "", align: str = "") -> dict:
        with _GradioErrors():
            preview = service.look(uploaded(xray, service), view, align)
            return {"orientation": preview.orientation, "warnings": preview.warnings}

    # Defaults of None are not said to be optional in the schema, so numbers below 0 and empty words stand for them.
    def generate(
        xray: dict,
        sampler: str = "",
        steps: int = 0,
        guidance: float = -1.0,
        seed: int = 0,
        samples: int = 1,
        view: str = "",
        align: str = "",
        truth: dict[str, Any] | None = None,
    ) -> Iterator[dict]:
        with _GradioErrors():
            generation = GenerationRequest(
                sampler, steps or None, None if guidance == -1.0 else guidance, seed, samples, view, align
            )
            ct = None if truth is None else uploaded(truth, service)
            for item in service.generate(uploaded(xray, service), generation, ct):
                yield {"progress": plain(item)} if isinstance(item, Progress) else {"result": plain(item)}

    with page:
        for function in (look, generate):
            gr.api(function, api_name=function.__name__, concurrency_limit=None)
    return page


def uploaded(data: Any, service: Service) -> Path:
    """The file of what Gradio's client sends for one.

    Raises:
        UserError: anything that is not a file which was uploaded to this server.
    """
    path = data.get("path") if isinstance(data, dict) else None
    if isinstance(path, str) and "\0" not in path:
        found = Path(path).resolve()
        if service.store.uploads in found.parents and found.is_file():
            return found
    raise UserError("the X-ray: upload it first; gradio_client does so with handle_file")


def plain(item: Progress | Result) -> dict:
    """JSON without the paths of this machine."""
    found = {key: value for key, value in asdict(item).items() if key not in ("slices", "files")}
    if isinstance(item, Result):
        found |= {"urls": item.urls, "spread_name": item.spread_name, "mark": item.mark}
    return found


class _GradioErrors:
    """Turns a refusal into Gradio's own, which reaches the client as a line and leaves no traceback here."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind, error, traceback) -> None:
        if isinstance(error, UserError):
            raise gr.Error(str(error), print_exception=False) from None
