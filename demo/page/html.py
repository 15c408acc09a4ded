"""HTML of the page: X-ray preview, progress, messages.

Pictures are data URLs, so no copy of a patient's X-ray stays in a file cache.
"""

import base64
import html
from pathlib import Path

from demo.service.messages import Progress
from demo.service.xray_checks import CheckedXray

MARK = "Synthetic, not for diagnosis"
WELCOME = (
    '<div class="xc-welcome"><p>Drop a frontal chest X-ray into the field, or take an example, then generate.</p>'
    "<p>The volume appears here: axial, coronal, sagittal and in 3D, with its HU under the crosshair.</p></div>"
)


def heading(about: dict) -> str:
    """Title and facts about the model."""
    size = " × ".join(str(n) for n in about["volume_size"])
    low, high = about["window"]
    facts = [f"{size} voxels", f"{low:g} to {high:g} HU".replace("-", "−"), about["device"].upper()]
    if about["checkpoint"]:
        facts.append(about["checkpoint"]["file"])
    shown = "".join(f"<li>{html.escape(fact)}</li>" for fact in facts)
    return (
        '<header class="xc-head"><div><h1>xray2ct</h1><p>From one chest X-ray to a CT volume</p></div>'
        f'<ul aria-label="model">{shown}</ul>'
        '<button type="button" id="xc-theme" title="light or dark">Light / dark</button></header>'
        '<p id="xc-say" role="status" aria-live="polite"></p>'  # page.js announces results here
    )


def banner(about: dict) -> str:
    """The synthetic mark, and how far to trust the result."""
    return f'<p class="xc-banner" role="note"><strong>{MARK}.</strong> {html.escape(about["trust"])}</p>'


def xray_preview(preview: CheckedXray, note: str = "") -> str:
    """The X-ray as given and as the model sees it, with orientation, warnings, and the `note` of an example."""
    warnings = "".join(f'<li role="alert">{html.escape(line)}</li>' for line in preview.warnings)
    first = "As given, and as the model sees it" if preview.given else "As the model sees it"
    caption = ". ".join(filter(None, (first, preview.orientation, note)))
    given = picture(preview.given, "the X-ray as given") if preview.given else ""
    seen = picture(preview.picture, "the X-ray as the model sees it")
    second = picture(preview.lateral, "the lateral as the model sees it") if preview.lateral else ""
    return (
        f'<figure class="xc-seen"><div>{given}{seen}{second}</div>'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        + (f'<ul class="xc-warnings">{warnings}</ul>' if warnings else "")
    )


def progress(news: Progress, slices: str) -> str:
    """Progress bar, time left, and the middle slices `slices` of the prediction so far."""
    if news.ahead:
        line, value = f"Waiting: {news.ahead} before you", ""
    elif news.step == 0:
        line, value = "Starting", ""
    else:
        line, value = f"Denoising step {news.step} of {news.steps}", f' value="{news.step}"'
    left = "" if news.seconds_left is None or news.ahead else f"about {duration(news.seconds_left)} left"
    caption = f"<figcaption>Preliminary, the prediction so far. {MARK}.</figcaption>"
    body = slices and f'<figure class="xc-preview">{slices}{caption}</figure>'
    return (
        f'<div class="xc-progress"><div class="xc-progress-line"><span>{line}</span><span>{left}</span>'
        f'</div><progress max="{max(1, news.steps)}"{value} aria-label="progress"></progress>{body}</div>'
    )


def message(text: str, kind: str = "error") -> str:
    """An error message, or a note for `kind` "note"."""
    role = "alert" if kind == "error" else "status"
    return f'<p class="xc-message xc-{kind}" role="{role}">{html.escape(text)}</p>'


def picture(path: Path, alt: str) -> str:
    """A PNG as a data URL."""
    data = base64.b64encode(Path(path).read_bytes()).decode("ascii")
    return f'<img src="data:image/png;base64,{data}" alt="{html.escape(alt)}">'


def duration(seconds: float) -> str:
    """Formats `seconds`: "7 s", "2 min 5 s"."""
    whole = max(0, round(seconds))
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60} s"
