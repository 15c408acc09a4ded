"""The server that starts commands, the marker of the whole suite, and two trainings that nothing disturbed."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from fault_runs import Server, Training  # noqa: E402

STEPS = 40


def pytest_configure(config) -> None:
    """The marker of everything that `make faults` runs and continuous integration does not."""
    config.addinivalue_line("markers", "faults: the whole fault suite, run by `make faults`")


def pytest_collection_modifyitems(config, items) -> None:
    """Only where it is asked for."""
    if "faults" not in config.option.markexpr:
        chosen = [item for item in items if not item.get_closest_marker("faults")]
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("faults")])
        items[:] = chosen
    for item in items:
        if Path(__file__).parent in item.path.parents:  # the first test also waits for the imports and both trainings
            item.add_marker(pytest.mark.timeout(1800))


@pytest.fixture(scope="session")
def server():
    """Starts commands; every test uses the same one."""
    server = Server()
    yield server
    server.close()


@pytest.fixture(scope="session")
def whole_vqgan(server, tmp_path_factory) -> Training:
    """A first stage that nothing disturbed."""
    training = Training(server, "vqgan", tmp_path_factory.mktemp("whole_vqgan"), STEPS)
    training.start().fine()
    return training


@pytest.fixture(scope="session")
def whole_ddpm(server, whole_vqgan, tmp_path_factory) -> Training:
    """A second stage that nothing disturbed, on the first."""
    options = (f"model.vqgan_ckpt={whole_vqgan.last}",)
    place = tmp_path_factory.mktemp("whole_ddpm")
    training = Training(server, "ddpm", place, STEPS, *options, cache=whole_vqgan.place / "cache")
    training.start().fine()
    return training


@pytest.fixture
def training(request, server, tmp_path) -> Training:
    """A run of the same stage and config as the undisturbed one, with its cache; `request.param` is the stage."""
    whole = request.getfixturevalue(f"whole_{request.param}")
    more = [word for word in whole.words if word.startswith("model.vqgan_ckpt=")]
    cache = request.getfixturevalue("whole_vqgan").place / "cache"
    return Training(server, request.param, tmp_path, STEPS, *more, cache=cache)
