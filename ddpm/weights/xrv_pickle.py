"""Weights of a pickled network, as torchxrayvision publishes, without importing or running what the file names.

Every network class in it becomes an empty module that only holds parameters; apart from these, only tensors and plain
containers are built.
"""

import pickle
import tarfile
import types
import warnings
from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor, nn

from ddpm.weights.safe_load import DAMAGED, expect_stored

NETWORKS = ("torch.nn.modules.", "torchvision.models.", "torchxrayvision.models")
ALLOWED = {
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,  # written by protocol 2
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
    ("torch", "FloatStorage"): torch.FloatStorage,
    ("torch", "LongStorage"): torch.LongStorage,
    ("torch", "DoubleStorage"): torch.DoubleStorage,
}


class _Shell(nn.Module):
    """Any network: parameters, buffers and children."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type:
        if (module, name) in ALLOWED:
            return ALLOWED[module, name]
        if f"{module}.".startswith(NETWORKS):
            return _Shell
        raise pickle.UnpicklingError(f"it names {module}.{name}, which no network needs")


def network_weights(file: Path) -> dict[str, Tensor]:
    """State dict of a pickled network, or of a pickled state dict; a `ValueError` for any other content."""
    expect_stored(file)
    if tarfile.is_tarfile(file):  # torch would unpack its oldest format onto the disk
        raise ValueError("a tar archive; nothing in the file was run")
    load = lambda opened, **options: _Unpickler(opened, **options).load()  # noqa: E731
    reader = types.SimpleNamespace(Unpickler=_Unpickler, load=load, __name__="restricted")
    try:
        with warnings.catch_warnings():  # the source of an empty module differs from that of its class
            warnings.simplefilter("ignore")
            content = torch.load(file, map_location="cpu", pickle_module=reader)
        weights = nn.Module.state_dict(content) if isinstance(content, nn.Module) else content
    except DAMAGED as error:
        raise ValueError(f"{str(error)[:160]}; nothing in the file was run") from error
    if isinstance(weights, dict):
        weights = weights.get("state_dict", weights)
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError("neither a network nor its state dict")
    return weights
