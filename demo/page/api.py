"""The web API: `/look` and `/generate` for `gradio_client`, on the same service as the page."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gradio as gr

from common.errors import UserError
from demo.service.messages import MARK, GenerationRequest, Progress, Result
from demo.service.service import Service


def add_api(page: gr.Blocks, service: Service) -> gr.Blocks:
    """Adds `/look` and `/generate` to a page and returns it; `/generate` yields `{"progress"}`, then `{"result"}`."""

    def look(xray: dict, view: str = "", align: str = "", lateral: dict[str, Any] | None = None) -> dict:
        with _gradio_errors():
            second = None if lateral is None else uploaded(lateral, service)
            preview = service.look(uploaded(xray, service), view, align, second)
            return {"orientation": preview.orientation, "warnings": preview.warnings}

    # The schema does not mark defaults of None as optional, so 0, -1 and "" stand for the default.
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
        lateral: dict[str, Any] | None = None,
    ) -> Iterator[dict]:
        with _gradio_errors():
            scale = None if guidance == -1.0 else guidance
            generation = GenerationRequest(sampler, steps or None, scale, seed, samples, view, align)
            ct = None if truth is None else uploaded(truth, service)
            second = None if lateral is None else uploaded(lateral, service)
            for item in service.generate(uploaded(xray, service), generation, ct, lateral=second):
                yield {"progress": plain(item)} if isinstance(item, Progress) else {"result": plain(item)}

    with page:
        for function in (look, generate):
            gr.api(function, api_name=function.__name__, concurrency_limit=None)
    return page


def uploaded(data: Any, service: Service) -> Path:
    """Returns the path of a file that Gradio's client uploaded; UserError for anything else."""
    path = data.get("path") if isinstance(data, dict) else None
    if isinstance(path, str) and "\0" not in path:
        found = Path(path).resolve()
        if service.store.uploads in found.parents and found.is_file():
            return found
    raise UserError("the X-ray: upload it first; gradio_client does so with handle_file")


def plain(item: Progress | Result) -> dict:
    """Returns JSON without local paths."""
    found = {key: value for key, value in asdict(item).items() if key not in ("slices", "files")}
    if isinstance(item, Result):
        found |= {"urls": item.urls, "mark": MARK}
        found["spread_name"] = "spread" if "spread.nii.gz" in item.files else ""  # shown as an overlay
    return found


@contextmanager
def _gradio_errors() -> Iterator[None]:
    """Converts a UserError to `gr.Error`, which the client shows without a traceback."""
    try:
        yield
    except UserError as error:
        raise gr.Error(str(error), print_exception=False) from None
