"""Remakes assets/web_interface.png: the page in a headless Chromium with the volume of a real film; not a test.

`python tests/demo/screenshot.py [checkpoint] [picture]`, by default with the included weights.
"""

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[0:1] = [str(ROOT), str(ROOT / "tests" / "demo"), str(ROOT / "tests" / "ddpm"), str(ROOT / "tests")]

FILM, SIZE = "Film: slim, PA", (1440, 1000)


def main(checkpoint: str | None = None, picture: str = str(ROOT / "assets" / "web_interface.png")) -> None:
    from browser import chromium, generate, watched_page
    from demo_parts import SAMPLERS, served

    from ddpm.checkpoint.load import load_pipeline
    from demo.server.app_factory import build_app
    from demo.server.launch import sampler_choices
    from demo.service.service import Service
    from evaluation.generation.open_pipeline import SHIPPED, find_checkpoint

    path = find_checkpoint(checkpoint) if checkpoint else SHIPPED
    pipeline = load_pipeline(path)
    samplers = sampler_choices(pipeline, "default", {**SAMPLERS["default"], "steps": 12})
    with tempfile.TemporaryDirectory() as folder:
        service = Service(pipeline, Path(folder), samplers, path)
        with served(build_app(service)) as address, chromium() as browser, watched_page(browser, SIZE) as page:
            page.set_default_timeout(600_000)
            page.goto(address)
            page.locator("#xc-samples label", has_text=FILM).click()
            page.wait_for_selector(".xc-seen img")
            generate(page, samples=2)
            page.wait_for_selector(".xv[data-ready]")
            page.locator("#xc-advanced > button").click()
            page.wait_for_timeout(3000)
            page.screenshot(path=picture, full_page=True)
        service.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
