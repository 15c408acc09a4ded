"""The quickstart notebook runs from first cell to last; its volume is closer to the truth than the training mean."""

import re
from pathlib import Path

import pytest

FILE = Path(__file__).resolve().parent.parent / "docs" / "quickstart.ipynb"


@pytest.mark.slow
def test_the_quickstart_runs(tmp_path):
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(FILE, as_version=4)
    NotebookClient(
        notebook, timeout=500, kernel_name="python3", resources={"metadata": {"path": FILE.parent}}
    ).execute()
    said = " ".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []) if "text" in output
    )
    error, mean = map(float, re.search(r"absolute difference (\d+) HU; the training mean has (\d+) HU", said).groups())
    assert error < mean
    pictures = [o for c in notebook.cells for o in c.get("outputs", []) if "image/png" in o.get("data", {})]
    assert len(pictures) >= 3


def test_the_quickstart_is_kept_with_outputs_of_every_cell_in_order():
    import nbformat

    assert FILE.stat().st_size < 1e6
    cells = [cell for cell in nbformat.read(FILE, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not any(output.output_type == "error" for output in outputs)
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 5
    assert "/home/" not in (text := FILE.read_text()) and "/tmp/" not in text and "site-packages" not in text


def test_the_imports_of_the_quickstart_exist():
    import ast

    import nbformat

    cells = [cell.source for cell in nbformat.read(FILE, as_version=4).cells if cell.cell_type == "code"]
    nodes = ast.parse("\n".join(cells).replace("%", "#")).body
    imports = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
    exec(compile(ast.Module(imports, type_ignores=[]), str(FILE), "exec"), {})
    assert len(imports) >= 5
