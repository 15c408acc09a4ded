"""The application: page, API, viewer files, result files and reader study, behind `Guard`."""

import os
from pathlib import Path

from fastapi import FastAPI, HTTPException
from fastapi.responses import FileResponse, RedirectResponse

from common.errors import UserError
from demo.server.security import LOOPBACK, Guard
from demo.service.messages import REAL_FILES, RESULT_FILES
from demo.service.requested_files import find_or_make
from demo.service.service import Service

DEMO = Path(__file__).resolve().parent.parent
NIIVUE = DEMO / "node_modules" / "@niivue" / "niivue" / "dist" / "index.js"
VIEWER = DEMO / "page" / "viewer"
TYPES = {".js": "text/javascript", ".css": "text/css", ".wasm": "application/wasm"}
GRADIO_QUEUE = 64  # events in Gradio's queue; the job queue of the service has its own limit


def build_app(
    service: Service, password: str | None = None, loopback: bool = True, study: str | Path | None = None, answers=None
) -> FastAPI:
    """Returns the whole application; UserError without the viewer or the study.

    Args:
        password: as in `Guard`.
        loopback: whether only this machine can reach it.
        study: folder of a reader study, served under `/readers`, or None.
        answers: folder of the study's answers.
    """
    isolate_gradio(service.store.uploads)
    import gradio as gr

    from demo.page.api import add_api
    from demo.page.layout import build_page, page_options

    largest = max(service.limits.xray_bytes, service.limits.ct_bytes)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    shown = viewer_files()

    @app.get("/result/{token}/{name}")
    @app.head("/result/{token}/{name}")
    def result(token: str, name: str) -> FileResponse:
        path = find_or_make(service.store, token, name)
        if path is None:
            raise HTTPException(404)
        shown = name if name in REAL_FILES else f"synthetic_{name}"
        return FileResponse(path, media_type=RESULT_FILES[name], filename=shown)

    @app.get("/viewer/{name:path}")
    def viewer(name: str) -> FileResponse:
        if name not in shown:
            raise HTTPException(404)
        return FileResponse(shown[name], media_type=TYPES.get(shown[name].suffix, "application/octet-stream"))

    if study is not None:
        from demo.reader_study.routes import readers_app

        app.mount("/readers", readers_app(study, answers))
        app.get("/readers")(lambda: RedirectResponse("/readers/"))  # else the page at / answers with 404
    page = add_api(build_page(service), service)
    page.queue(max_size=GRADIO_QUEUE, default_concurrency_limit=None, api_open=False)
    gr.mount_gradio_app(
        app,
        page,
        path="/",
        server_name=LOOPBACK[0],
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        mcp_server=False,
        show_error=True,
        max_file_size=largest,
        blocked_paths=[str(service.store.results)],
        **page_options(),
    )
    # Without this, Gradio does not check that a file in a request was uploaded, and reads any path.
    page.has_launched = True
    hosts = LOOPBACK if loopback else None
    app.add_middleware(Guard, files=service.store.uploads, max_bytes=largest, password=password, hosts=hosts)
    return app


def isolate_gradio(uploads: Path) -> None:
    """Disables telemetry and downloads of Gradio and moves its files to `uploads`; before Gradio's first import."""
    os.environ.update(
        GRADIO_ANALYTICS_ENABLED="False",
        GRADIO_TEMP_DIR=str(uploads),
        GRADIO_CACHE_DIR=str(uploads / "cache"),
        GRADIO_RUN_HISTORY="False",
        GRADIO_SHARE="False",
    )
    import gradio.processing_utils as outside

    def refuse(url: str, cache_dir: str) -> str:
        raise UserError("upload the file itself: this server fetches nothing")

    # Gradio would download a file given by URL
    for name in ("async_ssrf_protected_download", "ssrf_protected_download", "save_url_to_cache"):
        setattr(outside, name, refuse)


def viewer_files() -> dict[str, Path]:
    """Route name below `/viewer/` to file; the server serves only these. UserError without NiiVue."""
    if not NIIVUE.is_file():
        raise UserError(f"demo/node_modules: no viewer; run `make web`, or `npm ci --omit=dev` in {DEMO}")
    return {path.name: path for path in VIEWER.iterdir()} | {"niivue.js": NIIVUE}
