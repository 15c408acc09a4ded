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

from remembered_configs import remember_configs  # noqa: E402

remember_configs()


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


CHECKING = ("ddpm.conditioning.frontal_only", "evaluation.generation.xray_inputs")  # they refuse other pictures


@pytest.fixture(autouse=True, scope="session")
def any_picture():
    """Tests use random pictures as X-rays, also in fixtures of a whole module."""
    with pytest.MonkeyPatch.context() as patch:
        _accept_any_picture(patch)
        yield


@pytest.fixture(autouse=True)
def frontal_check(request, monkeypatch):
    """Tests marked `frontal_check` check X-rays as the product does, all others accept any picture."""
    if "frontal_check" not in request.keywords:
        _accept_any_picture(monkeypatch)
        return
    from dataset.imaging.frontal_check import why_not_frontal

    for module in CHECKING:
        if module in sys.modules:
            monkeypatch.setattr(sys.modules[module], "why_not_frontal", why_not_frontal)


def _accept_any_picture(patch) -> None:
    for module in CHECKING:
        if module in sys.modules:
            patch.setattr(sys.modules[module], "why_not_frontal", lambda xray: None)
