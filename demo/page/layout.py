"""Gradio layout and events of the page: X-ray on the left, volume on the right.

`viewer/page.js` builds the view of a result in the browser from the JSON of the API.
"""

import threading
from collections.abc import Iterator
from pathlib import Path

import gradio as gr

from common.errors import UserError
from demo.page import html
from demo.page.api import plain
from demo.service.examples import EXAMPLES, draw_sample
from demo.service.messages import Cancelled, GenerationRequest, Result
from demo.service.service import Service

HERE = Path(__file__).resolve().parent
VIEWS = [("from the file, else PA", ""), ("PA", "PA"), ("AP", "AP")]
ALIGNMENTS = [("as the model was trained", ""), ("to the lungs", "lungs"), ("none", "none")]
LATERAL = {"none": "", "optional": "Lateral X-ray, optional", "needed": "Lateral X-ray"}  # by `Service.lateral`
FONTS = ("system-ui", "-apple-system", "Segoe UI", "sans-serif")
MODULE = "await import(new URL('viewer/page.js', document.baseURI).href)"
START, SHOW = f"async () => {{ ({MODULE}).start() }}", f"async (result) => {{ ({MODULE}).show(result) }}"


def page_options() -> dict:
    """Arguments of `gr.mount_gradio_app`: theme, script and style, all served from here."""
    sizes, mono = {"radius_size": "sm", "text_size": "sm"}, ("ui-monospace", "Consolas", "monospace")
    theme = gr.themes.Base(primary_hue="cyan", neutral_hue="slate", font=FONTS, font_mono=mono, **sizes)
    head = '<script type="module" src="viewer/page.js"></script><link rel="icon" href="data:,">'
    return {"theme": theme, "head": head, "css_paths": [HERE / "viewer" / "page.css"]}


def build_page(service: Service) -> gr.Blocks:
    """Returns the page of a service."""
    events = _Events(service)
    sampler = service.samplers[service.default_sampler]
    kept = max(60, int(service.store.keep_seconds))
    plainly = {"apply_default_css": False}
    title = "xray2ct: chest X-ray to CT, synthetic"
    with gr.Blocks(title=title, analytics_enabled=False, fill_width=True, delete_cache=(60, kept)) as page:
        gr.HTML(html.heading(service.about) + html.banner(service.about), elem_id="xc-heading", **plainly)
        with gr.Row(elem_id="xc-body"):
            with gr.Column(scale=0, min_width=330, elem_id="xc-side"):
                xray = gr.File(label="X-ray: PNG, JPG, DICOM or NIfTI", height=104, elem_id="xc-xray")
                lateral = gr.File(
                    label=LATERAL[service.lateral],
                    height=88,
                    visible=service.lateral != "none",
                    elem_id="xc-lateral",
                )
                example = gr.Radio(list(EXAMPLES), label="or an example", elem_id="xc-samples")
                with gr.Row():
                    make = gr.Button("Generate CT", variant="primary", elem_id="xc-generate", scale=3)
                    stop = gr.Button("Cancel", elem_id="xc-cancel", interactive=False, scale=1, min_width=80)
                seen = gr.HTML(elem_id="xc-seen", **plainly)
                truth = gr.File(
                    label="True CT, optional (NIfTI, DICOM, …)",
                    height=88,
                    elem_id="xc-truth",
                )
                own_truth = gr.Checkbox(label="Compare with the example's true CT", visible=False, elem_id="xc-own")
                with gr.Accordion("Advanced", open=False, elem_id="xc-advanced"):
                    chosen = gr.Dropdown(list(service.samplers), value=service.default_sampler, label="Sampler")
                    steps = gr.Number(sampler["steps"], label="Steps", precision=0, minimum=1)
                    guided = service.about["guided"]
                    guidance = gr.Number(
                        sampler.get("guidance_scale", 1.0),
                        label="Guidance" if guided else "Guidance: 1, this model was trained without X-ray dropout",
                        minimum=0,
                        step=0.1,
                        interactive=guided,
                    )
                    most = f"Samples, at most {service.limits.max_samples}"
                    samples = gr.Number(1, label=most, precision=0, minimum=1)
                    seed = gr.Number(0, label="Seed", precision=0, minimum=0)
                    view = gr.Dropdown(VIEWS, value="", label="View of the X-ray")
                    align = gr.Dropdown(ALIGNMENTS, value="", label="Alignment of the X-ray")
            with gr.Column(scale=1, min_width=640, elem_id="xc-main"):
                status = gr.HTML(html.WELCOME, elem_id="xc-status", **plainly)
                gr.HTML('<div id="xc-result"></div>', elem_id="xc-result-home", **plainly)
        result = gr.JSON(visible="hidden", elem_id="xc-json")
        about = {"api_visibility": "private", "show_progress": "hidden"}

        last = {"trigger_mode": "always_last", **about}  # the default drops an event while an earlier one is pending
        picked = example.input(events.picked, example, [xray, lateral, truth, own_truth, seen], **last)
        uploaded = xray.upload(events.uploaded, None, [example, own_truth, seen], **last)
        xray.clear(events.cleared, None, [lateral, truth, seen], **last)  # of the same patient
        for changed in (picked.then, uploaded.then, view.input, align.input, lateral.upload, lateral.clear):
            changed(events.seen, [xray, example, view, align, lateral], seen, concurrency_limit=4, **last)
        chosen.change(events.defaults, chosen, [steps, guidance], **about)
        options = [chosen, steps, guidance, seed, samples, view, align]
        make.click(None, js=START, api_visibility="private")
        made = make.click(
            events.generate,
            [xray, lateral, example, truth, own_truth, *options],
            [status, result, make, stop],
            concurrency_limit=None,
            api_name="page_generate",  # /generate belongs to the API
            **about,
        )
        made.then(None, result, js=SHOW, api_visibility="private")
        stop.click(events.cancel, None, None, queue=False, **about)
        page.unload(events.left)
    return page


class _Events:
    """Event handlers of the page; one object serves all sessions."""

    def __init__(self, service: Service):
        self.service = service
        self.active: dict[str, threading.Event] = {}
        self.newest: dict[str, object] = {}  # event of each page after which results of earlier checks are out of date

    def seen(self, xray, example, view, align, lateral, request: gr.Request):
        """Preview of the X-ray, or an error message; changes nothing if the X-ray or an option changed meanwhile."""
        turn = self._turn(request)
        try:
            shown = self._preview(xray, example, view, align, lateral)
        except UserError as error:
            shown = html.message(str(error))
        return shown if self.newest.get(request.session_hash) is turn else gr.skip()

    def picked(self, example, request: gr.Request):
        """Replaces the uploads with an example, which has no lateral, and offers its own true CT, if there is one."""
        self._turn(request)
        own_truth = gr.update(visible=True) if EXAMPLES[example].has_truth else gr.update(visible=False, value=False)
        return None, None, None, own_truth, ""

    def uploaded(self, request: gr.Request):
        """Replaces an example with an upload."""
        self._turn(request)
        return None, gr.update(visible=False, value=False), ""

    def cleared(self, request: gr.Request):
        """Removes the files that belong to an X-ray."""
        self._turn(request)
        return None, None, ""

    def defaults(self, sampler):
        """Default steps and guidance of a sampler."""
        node = self.service.samplers[sampler]
        return node["steps"], node.get("guidance_scale", 1.0)

    def generate(
        self,
        xray,
        lateral,
        example,
        truth,
        own_truth,
        sampler,
        steps,
        guidance,
        seed,
        samples,
        view,
        align,
        request: gr.Request,
    ) -> Iterator[tuple]:
        """Yields status, result and button states until the volume is finished."""
        wait = (gr.update(interactive=False), gr.update(interactive=True))
        ready = (gr.update(interactive=True), gr.update(interactive=False))
        if not xray and not example:
            yield _shown(html.message("Give an X-ray, or take an example.", "note")), None, *ready
            return
        key, cancelled = request.session_hash, threading.Event()
        self.cancel(request)
        self.active[key] = cancelled
        slices = ""
        try:
            yield _shown(html.message("Checking the files …", "note")), None, *wait
            path, view, align = self._inputs(xray, example, view, align)
            generation = GenerationRequest(sampler, steps, guidance, seed, samples, view, align)
            if example and own_truth:
                truth = draw_sample(example, self.service.store.uploads).truth
            result = None
            files = Path(truth) if truth else None, cancelled, Path(lateral) if lateral else None
            for news in self.service.generate(path, generation, *files):
                if isinstance(news, Result):
                    result = plain(news)  # no break: closing the iterator early would delete the files
                    continue
                if news.slices is not None and news.slices.is_file():
                    slices = html.picture(news.slices, "preliminary middle slices")
                yield _shown(html.progress(news, slices)), None, *wait
            yield gr.update(value="", visible=False), result, *ready
        except Cancelled:
            yield _shown(html.message("Cancelled. Nothing was kept.", "note")), None, *ready
        except UserError as error:
            yield _shown(html.message(str(error))), None, *ready
        finally:
            if self.active.get(key) is cancelled:
                del self.active[key]

    def cancel(self, request: gr.Request) -> None:
        """Cancels the request of this session."""
        if request.session_hash in self.active:
            self.active[request.session_hash].set()

    def left(self, request: gr.Request) -> None:
        """Ends what belongs to a page that was closed."""
        self.cancel(request)
        self.newest.pop(request.session_hash, None)

    def _turn(self, request: gr.Request) -> object:
        turn = self.newest[request.session_hash] = object()
        return turn

    def _preview(self, xray, example, view, align, lateral) -> str:
        if not xray and not example:
            return ""
        seen = self.service.look(*self._inputs(xray, example, view, align), Path(lateral) if lateral else None)
        return html.xray_preview(seen, "" if xray else EXAMPLES[example].note)

    def _inputs(self, xray, example, view, align) -> tuple[Path, str, str]:
        """File, view and alignment, by default those of an example."""
        if xray:
            return Path(xray), view, align
        given, sample = EXAMPLES[example], draw_sample(example, self.service.store.uploads)
        return sample.xray, view or given.view, align or given.align


def _shown(text: str) -> dict:
    return gr.update(value=text, visible=True)
