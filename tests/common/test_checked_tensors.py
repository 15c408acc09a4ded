"""A changed byte of a tensor on disk does not match its checksum."""

import os

import pytest
import torch
from safetensors.torch import save_file

from common.checked_tensors import DamagedFile, crc32, open_checked, save_checked


def test_round_trip_and_shapes(tmp_path):
    tensors = {"ct": torch.arange(24, dtype=torch.int16).view(2, 3, 4), "label": torch.tensor(1)}
    save_checked({**tensors, "permuted": tensors["ct"].permute(2, 0, 1)}, tmp_path / "a.safetensors")
    with open_checked(tmp_path / "a.safetensors") as file:
        assert file.shape("ct") == (2, 3, 4) and torch.equal(file.get_tensor("ct"), tensors["ct"])
        assert file.get_tensor("label") == 1 and file.get_tensor("permuted").shape == (4, 2, 3)
        assert file.checksums()["ct"] == crc32(tensors["ct"])
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize("place", [-1, -64, -128])
def test_a_changed_byte_is_reported_for_its_tensor(tmp_path, place):
    path = tmp_path / "a.safetensors"
    save_checked({"ct": torch.arange(64, dtype=torch.int16)}, path)
    data = bytearray(path.read_bytes())
    data[place] ^= 0x40
    path.write_bytes(bytes(data))
    with (
        pytest.raises(DamagedFile, match="ct does not match its checksum.*makes it again"),
        open_checked(path) as file,
    ):
        file.get_tensor("ct")


def test_a_truncated_or_missing_file_is_named(tmp_path):
    path = tmp_path / "a.safetensors"
    save_checked({"ct": torch.arange(64)}, path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DamagedFile, match="a.safetensors: cannot be read"), open_checked(path):
        pass
    path.unlink()
    with pytest.raises(DamagedFile, match="a.safetensors: cannot be read"), open_checked(path):
        pass


def test_a_file_without_checksums_is_accepted(tmp_path):
    path = tmp_path / "old.safetensors"
    save_file({"ct": torch.arange(4)}, path)
    with open_checked(path) as file:
        assert torch.equal(file.get_tensor("ct"), torch.arange(4))
        assert file.checksums() == {"ct": crc32(torch.arange(4))}


def test_a_full_disk_is_an_oserror(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        save_checked({"ct": torch.arange(4)}, tmp_path / "file" / "a.safetensors")


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_a_file_has_the_default_permissions(tmp_path, mask, mode):
    """A shared cache is readable by others if the umask allows it, unlike files of safetensors' own `save_file`."""
    before = os.umask(mask)
    try:
        save_checked({"ct": torch.zeros(2)}, tmp_path / "case.safetensors")
    finally:
        os.umask(before)
    assert (tmp_path / "case.safetensors").stat().st_mode & 0o777 == mode
