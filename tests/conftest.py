"""The repository root on the path, real data where it lies beside the checkout, and a network that stays closed."""

import gc
import os
import sys
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores: one thread each, also in what they start
    os.environ["OMP_NUM_THREADS"] = "1"

gc.disable()  # imports allocate millions of objects that stay

import pytest  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def pytest_collection_finish(session: pytest.Session) -> None:
    gc.freeze()  # the imported objects are not searched again
    gc.enable()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with real CT volumes and X-rays; the test is skipped where there is none."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("real data not found at ../shared/data")
    return folder


@pytest.fixture(autouse=True)
def forget_run_folder():
    """A command that ran in this process leaves its run folder to the processes it might have started: not to ours."""
    yield
    os.environ.pop("XRAY2CT_RUN_FOLDER", None)


@pytest.fixture(autouse=True)
def any_picture(request, monkeypatch):
    """Tests use random pictures as X-rays; those marked `frontal_check` check them as the product does."""
    if "frontal_check" not in request.keywords:
        for module in ("ddpm.pipeline", "evaluation.generation.xray_inputs"):
            if module in sys.modules:
                monkeypatch.setattr(sys.modules[module], "why_not_frontal", lambda xray: None)
