"""The files that the viewer needs in a browser: our own and NiiVue's, each under the name by which it is served."""

from pathlib import Path

from dataset.errors import UserError

HERE = Path(__file__).resolve().parent
NIIVUE = HERE / "node_modules" / "@niivue" / "niivue" / "dist" / "index.js"
OWN = ("viewer.js", "panel.js", "presets.js", "rendering.js", "toolbar.js", "keys.js", "viewer.css")
PAGE = ("page.js", "page.css")


def viewer_files() -> dict[str, Path]:
    """Route name below `/viewer/` to file; nothing else of these folders is served.

    Raises:
        UserError: NiiVue is not installed.
    """
    if not NIIVUE.is_file():
        raise UserError(
            "demo/node_modules: the viewer is not installed; run `make web`, or `npm ci --omit=dev` in demo/"
        )
    return {name: HERE / "viewer" / name for name in (*OWN, *PAGE)} | {"niivue.js": NIIVUE}
