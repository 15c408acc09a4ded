"""Encoding of latents killed (-9) at random moments and within the writing of a file, and started again each time."""

import random

import pytest
from fault_runs import DATA, DDPM, contents

from ddpm.latent.latent_dataset import is_whole, read_latents

CASES = ["dataset.train=24", "dataset.volume_size=[32,32,32]"]


@pytest.fixture(scope="module")
def encode(server, whole_vqgan, tmp_path_factory):
    """Starts the encoding into a cache; its cases are prepared once and linked into each."""
    words = [*DATA, *CASES, *DDPM, f"model.vqgan_ckpt={whole_vqgan.last}"]

    def start(place, **faults):
        options = [*words, f"dataset.cache_dir={place}/cache"]
        return server.start("train/encode_latents.py", *options, place=place, **faults)

    return start


@pytest.fixture(scope="module")
def whole(encode, tmp_path_factory):
    """A cache whose encoding nothing disturbed."""
    place = tmp_path_factory.mktemp("encoded")
    encode(place).fine()
    return place


def latents(place) -> list:
    """The files under their final names."""
    return [path for path in sorted(place.glob("cache/*/latents-*/*.safetensors")) if not path.name.startswith(".")]


@pytest.mark.faults
@pytest.mark.parametrize("kills", [2, 12])
def test_killed_at_random_moments(encode, whole, tmp_path, kills):
    (cases,) = whole.glob("cache/*/cases")
    home = tmp_path / "cache" / cases.parent.name
    home.mkdir(parents=True)
    for name in ("cases", "manifest.csv"):
        (home / name).symlink_to(cases.parent / name)
    chance, landed = random.Random(f"encoding {kills}"), 0
    while landed < kills:
        if landed % 2:  # at any time from the start of the process on
            command = encode(tmp_path)
            landed += command.killed_after(chance.uniform(0.2, 2.0))
        else:  # within the writing of one of the files that are left
            left = len(latents(whole)) - len(latents(tmp_path))
            moment = chance.choice(["half_written", "before_sync", "before_rename", "after_rename"])
            command = encode(tmp_path, kill_at_file={"moment": moment, "count": chance.randint(1, min(3, left))})
            landed += command.wait() == -9
        for path in latents(tmp_path):
            assert is_whole(path)
        if len(latents(tmp_path)) == len(latents(whole)):  # all are there: the kills that are left meet a new start
            same = [{path.name: path.read_bytes() for path in latents(place)} for place in (tmp_path, whole)]
            assert same[0] == same[1]  # the measure of the reconstruction may be missing until the last start
            for path in latents(tmp_path):
                path.unlink()
    encode(tmp_path).fine()
    assert contents(latents(tmp_path)[0].parent) == contents(latents(whole)[0].parent)
    assert read_latents(latents(tmp_path)).isfinite().all()
