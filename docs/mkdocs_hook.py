"""MkDocs hook: the site gets a page for every file of the repository that the documentation links to."""

import json
import os
import re
from pathlib import Path

from mkdocs.structure.files import File

LINK = re.compile(r"(\]\()([^)#\s:]+)((?:#[^)\s]*)?\))")
IMAGES = (".png", ".svg", ".gif", ".jpg")
ROOT = Path(__file__).resolve().parent.parent


def address(path: Path) -> str:
    """Where a file of the repository lies in the source of the site."""
    inside = path.relative_to(ROOT).as_posix()
    if path.suffix == ".md" and path.parent.is_relative_to(ROOT / "docs"):
        return inside.removeprefix("docs/")
    return f"repository/{inside}" + ("" if path.suffix in (".md", *IMAGES) else ".md")


def links(text: str, folder: Path) -> list[Path]:
    """Files of the repository that a page in `folder` links to."""
    targets = ((folder / match.group(2)).resolve() for match in LINK.finditer(text))
    return [path for path in targets if path.is_file() and path.is_relative_to(ROOT)]


def relinked(text: str, source: Path) -> str:
    """The text of a page with links as the site needs them."""

    def replace(match: re.Match) -> str:
        path = (source.parent / match.group(2)).resolve()
        if not path.is_file() or not path.is_relative_to(ROOT):
            return match.group(0)
        return match.group(1) + os.path.relpath(address(path), os.path.dirname(address(source))) + match.group(3)

    return LINK.sub(replace, text)


def as_page(path: Path) -> str:
    """Markdown that shows a file: a page as it is, a notebook by its cells, other text as code."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return relinked(text, path)
    if path.suffix == ".ipynb":
        cells = (("".join(cell["source"]), cell["cell_type"]) for cell in json.loads(text)["cells"])
        return relinked("\n\n".join(c if kind == "markdown" else f"```python\n{c}\n```" for c, kind in cells), path)
    return f"# {path.relative_to(ROOT).as_posix()}\n\n````{path.suffix.lstrip('.')}\n{text}\n````\n"


def on_files(files, config):
    """Adds the linked files, and those that they link to."""
    waiting = [(Path(file.abs_src_path), file.abs_src_path) for file in files.documentation_pages()]
    known = {path for path, _ in waiting}
    while waiting:
        path, _ = waiting.pop()
        if path.suffix not in (".md", ".ipynb"):
            continue
        for linked in set(links(path.read_text(encoding="utf-8"), path.parent)) - known:
            known.add(linked)
            waiting.append((linked, linked))
            if linked.suffix in IMAGES:
                files.append(File.generated(config, address(linked), abs_src_path=str(linked)))
            else:
                files.append(File.generated(config, address(linked), content=as_page(linked)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Leads the links of a page out of `docs/` to the added files."""
    source = page.file.abs_src_path
    return relinked(markdown, Path(source)) if source and Path(source).is_relative_to(ROOT / "docs") else markdown
