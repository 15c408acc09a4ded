"""Any bytes or headers of a checkpoint give a model or a one-line error, and execute no code."""

import json

import pytest
import torch
from fuzz_files import LONG, damaged, kept, refused_or
from fuzz_seeds import checkpoint, checkpoint_files
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from ddpm.checkpoint.load import load_pipeline
from ddpm.checkpoint.read import read
from ddpm.weights.xrv_pickle import network_weights

pytestmark = pytest.mark.filterwarnings("ignore")
HEADER, WEIGHTS = checkpoint()
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def model(path):
    found = read(path).vqgan()
    assert sum(p.numel() for p in found.parameters()) < 10_000_000
    return found


def paths(tree, prefix=()):
    """Where a header can be changed."""
    for key, value in tree.items():
        yield (*prefix, key)
        if isinstance(value, dict):
            yield from paths(value, (*prefix, key))


@LONG
@given(st.data())
def test_bytes(folder, data):
    torch_file, safe_file = checkpoint_files()
    refused_or(model, folder / "last.ckpt", data.draw(damaged(torch_file)))
    refused_or(model, folder / "model.safetensors", data.draw(damaged(safe_file, header=2000)))


@LONG
@given(st.sampled_from(sorted(paths(HEADER))), PLAIN)
def test_headers(folder, place, value):
    header = json.loads(json.dumps(HEADER))
    inner = header
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    for stage in ("vqgan", "ddpm"):
        content = save(WEIGHTS, {"header": json.dumps({**header, "stage": stage} if place[0] != "stage" else header)})
        refused_or(model if stage == "vqgan" else load_pipeline, folder / "model.safetensors", content)


@LONG
@given(PLAIN)
def test_headers_of_anything(folder, header):
    refused_or(load_pipeline, folder / "model.safetensors", save(WEIGHTS, {"header": json.dumps(header)}))


@LONG
@given(st.data())
def test_pickled_networks(folder, data):
    path = folder / "network.pt"
    torch.save(torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3)), path)
    path.write_bytes(data.draw(damaged(path.read_bytes())))
    try:
        assert all(isinstance(value, torch.Tensor) for value in network_weights(path).values())
    except ValueError as error:
        assert str(error)


@pytest.mark.parametrize("file", kept("checkpoints"), ids=lambda file: file.name)
def test_regressions(file):
    refused_or(model, file)
    refused_or(load_pipeline, file)
