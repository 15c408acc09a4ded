"""The authenticity test: a copy is found however blurred or regressed it is, an honest generator is not accused."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from evaluation_fakes import FakeCases, FakePipeline, chest_world, oracle, protocol
from scipy.ndimage import gaussian_filter

from common.errors import UserError
from evaluation.authenticity.memorisation import GROUPS, authenticity, measure_ratios
from evaluation.authenticity.nearest_training import LEAST, TrainingCases
from evaluation.authenticity.report import write_memorisation
from evaluation.generation.sample import Sampling

UNSEEN = 12


def named(cases: FakeCases, name: str) -> FakeCases:
    ids = [f"{name}_{i}" for i in range(len(cases))]
    cases.rows = pd.DataFrame({"id": ids, "patient": ids})
    return cases


class CodingPipeline(FakePipeline):
    """Its latent encoder keeps everything."""

    latent_encoder = SimpleNamespace(device="cpu", dtype=torch.float32, encode=lambda volume: volume)

    def decode(self, latents):
        return self.window.denormalise(latents)


@pytest.fixture(scope="module")
def world():
    train, test = named(random_world(40, 1), "train"), named(random_world(UNSEEN, 2), "test")
    return train, test


def random_world(count: int, seed: int) -> FakeCases:
    """Chests with a smooth random texture, so that patients differ in many directions."""
    cases, rng = chest_world(count, seed), np.random.default_rng(seed)
    for i in range(count):
        texture = 600.0 * gaussian_filter(rng.standard_normal(cases.case(i)["ct"].shape), 2.0) * 8.0
        cases.case(i)["ct"] = (cases.case(i)["ct"] + torch.from_numpy(texture)).clamp(-1000, 1000).to(torch.int16)
    return cases


def verdict(world, answer) -> dict:
    train, test = world
    pipeline = CodingPipeline(answer, protocol(), noise=5.0)
    return authenticity(measure_ratios(pipeline, train, test, Sampling(batch_size=64)))


def blurred(answer, sigma: float):
    return lambda xray: torch.from_numpy(gaussian_filter(answer(xray).numpy(), sigma))


def nearest_training(train: FakeCases, test: FakeCases):
    """Answers each X-ray of `test` with a training case of its own."""
    find, places = oracle(test), {}

    def answer(xray: torch.Tensor) -> torch.Tensor:
        return train.case(places.setdefault(float(find(xray).sum()), len(places)))["ct"].float()

    return answer


def test_an_honest_generator_is_not_accused_however_blurred(world):
    train, test = world
    mean = torch.stack([train.case(i)["ct"].float() for i in range(len(train))]).mean(dim=0)
    honest = oracle(test)
    for answer in (honest, blurred(honest, 1.0), lambda xray: mean + 0.4 * (honest(xray) - mean)):
        result = verdict(world, answer)
        assert result["verdict"] == "not shown", result
        assert result["groups"]["unseen, decoded"]["copies"] <= 1
        assert result["groups"]["copies, decoded"]["copies"] == UNSEEN  # the control of the test's power


def test_planted_copies_are_found_however_blurred_or_regressed(world):
    train, test = world
    mean = torch.stack([train.case(i)["ct"].float() for i in range(len(train))]).mean(dim=0)
    copying = nearest_training(train, test)
    for answer in (copying, blurred(copying, 1.0), lambda xray: mean + 0.4 * (copying(xray) - mean)):
        result = verdict(world, answer)
        assert result["verdict"] == "memorised" and result["groups"]["generated"]["copies"] == UNSEEN, result


def test_a_generator_that_copies_half_of_its_volumes_is_found(world):
    train, test = world
    honest, copying, calls = oracle(test), nearest_training(train, test), []

    def answer(xray):
        calls.append(0)
        return (honest if len(calls) % 2 else copying)(xray)

    result = verdict(world, answer)
    assert result["groups"]["generated"]["copies"] == UNSEEN // 2 and result["verdict"] == "memorised"


def test_the_ratio_of_a_copy_does_not_depend_on_scans_of_one_patient():
    generator = torch.Generator().manual_seed(0)
    volumes = 100.0 * torch.randn(6, 8, 8, 8, generator=generator)
    twice = [*volumes, volumes[0] + 1.0]
    known = TrainingCases(twice, [*"abcdef", "a"])
    assert known.nearest(volumes[0]).ratio == LEAST and known.nearest(volumes[0]).case == 0
    apart = TrainingCases(twice, [*"abcdefg"])  # a second patient with the same volume hides the copy
    assert apart.nearest(volumes[0] + 0.5).ratio > 0.3
    with pytest.raises(UserError, match="at least 2"):
        TrainingCases(volumes, ["a"] * 6)


def test_few_patients_get_no_verdict_and_the_files_say_so(world, tmp_path):
    train, test = world
    few = named(FakeCases([test.case(i) for i in range(3)]), "few")
    ratios = measure_ratios(CodingPipeline(oracle(few), protocol()), train, few, Sampling(batch_size=64))
    assert set(ratios.group) == set(GROUPS) and (ratios.groupby("group").size() == 3).all()
    table = write_memorisation(tmp_path, ratios, authenticity(ratios), {})
    assert "no verdict" in table and (tmp_path / "memorisation.png").stat().st_size > 5000
