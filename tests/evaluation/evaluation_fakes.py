"""Small stand-ins for a data set and a pipeline; not a test file."""

from types import SimpleNamespace

import pandas as pd
import torch
from torch import nn

from dataset.imaging.forward_model import ForwardModel
from dataset.imaging.geometry import make_pose
from dataset.imaging.hu_window import Window
from evaluation.generation.sample import Sampling
from evaluation.metrics.reprojection import FORWARD_MODEL
from evaluation.reporting.html_report import write_report
from evaluation.scoring.evaluator import EvaluationSettings, Evaluator
from evaluation.scoring.score_cases import score_case

SIZE = (16, 16, 16)
EXTENT = (320.0, 256.0, 352.0)
SPACING = (20.0, 16.0, 22.0)


class FakeCases:
    """Cases behind the interface of a `CaseDataset`."""

    def __init__(self, cases: list[dict], patients: list[str] | None = None):
        self._cases = cases
        ids = [f"case_{i}" for i in range(len(cases))]
        self.rows = pd.DataFrame({"id": ids, "patient": patients or [f"patient_{i}" for i in range(len(cases))]})

    def __len__(self) -> int:
        return len(self._cases)

    def case(self, index: int) -> dict:
        return self._cases[index]


def linear_world(count: int, seed: int) -> FakeCases:
    """Volumes that are linear in five hidden numbers, which their X-rays show."""
    basis = torch.Generator().manual_seed(99)
    volumes, images = torch.randn(5, *SIZE, generator=basis), torch.randn(5, 1, 32, 32, generator=basis)
    hidden = torch.randn(count, 5, generator=torch.Generator().manual_seed(seed))
    cases = []
    for numbers in hidden:
        ct = 60.0 * torch.tensordot(numbers, volumes, dims=1)
        xray = 0.5 + 0.03 * torch.tensordot(numbers, images, dims=1)
        cases.append(pack(ct, xray))
    return FakeCases(cases)


def chest_world(count: int, seed: int) -> FakeCases:
    """Round bodies with two lungs of varying size, and an X-ray that is their shadow."""
    generator = torch.Generator().manual_seed(seed)
    size = (24, 24, 24)
    d, h, w = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in size), indexing="ij")
    cases = []
    for _ in range(count):
        radius, left = 0.28 + 0.14 * torch.rand(2, generator=generator)
        hu = torch.where(torch.hypot(h, w) < 0.9, 40.0, -1000.0)
        hu[(torch.hypot(h, w + 0.42) < radius) & (d.abs() < 0.8)] = -850.0
        hu[(torch.hypot(h, w - 0.42) < left) & (d.abs() < 0.8)] = -850.0
        hu = hu + 10.0 * torch.randn(size, generator=generator)
        shadow = ((hu + 1000.0).clamp(min=0).mean(dim=1) / 1000.0).clamp(0, 1).flip(0)
        cases.append(pack(hu, shadow[None], [e / n for e, n in zip(EXTENT, size, strict=True)]))
    return FakeCases(cases)


def pack(ct: torch.Tensor, xray: torch.Tensor, spacing=SPACING) -> dict:
    return {
        "ct": ct.round().to(torch.int16),
        "xray": xray.to(torch.float16),
        "pose": make_pose(EXTENT)[None],
        "spacing": torch.tensor(spacing),
        "centre": torch.zeros(3),
    }


def protocol(size=(24, 24, 24), window=(-1000.0, 1000.0)) -> dict:
    return {
        "dataset": "phantom",
        "version": 1,
        "window": list(window),
        "volume_size": list(size),
        "spacing": [e / n for e, n in zip(EXTENT, size, strict=True)],
        "extent": list(EXTENT),
        "xray_size": [24, 24],
        "views": 1,
        "forward_model": ForwardModel().describe(),
    }


def evaluate(
    data,
    pipeline,
    output,
    samples=4,
    batch_size=16,
    checkpoint=None,
    extractor=None,
    report=False,
    intervals=None,
    **settings,
) -> dict:
    """Runs an `Evaluator` with the defaults of the command; `report` also writes its page, whose plots take longer."""
    sampling, settings = Sampling(samples, batch_size=batch_size), EvaluationSettings(**settings)
    evaluator = Evaluator(data, pipeline, sampling, settings, checkpoint, extractor, intervals)
    result = evaluator.run(evaluator.read_inputs(), output)
    if report:
        write_report(output, {})
    return result


class FakeDataModule:
    """Three splits and a protocol."""

    def __init__(self, train: FakeCases, val: FakeCases, test: FakeCases, data: dict | None = None):
        self.train, self.val, self.test = train, val, test
        for name in ("test", "val", "train"):  # cases that serve two splits belong to the first
            getattr(self, name).rows["split"] = name
        self._protocol = data or protocol(tuple(test.case(0)["ct"].shape))

    def protocol(self) -> dict:
        return self._protocol


def chest_data(train: int, val: int, test: int, data: dict | None = None) -> FakeDataModule:
    """So many cases of `chest_world` in each split."""
    return FakeDataModule(chest_world(train, 1), chest_world(val, 2), chest_world(test, 3), data)


class FakePipeline:
    """Answers with `answer(xray)` in HU plus noise that depends on seed, id and sample alone."""

    prior = None
    residual = None
    pose_regressor = None
    training_spread = None
    latent_encoder = nn.Linear(1, 1)  # that no lung guide suits

    def __init__(self, answer, data: dict, noise: float = 20.0):
        self._answer, self.protocol, self._noise = answer, data, noise
        self.window, self.volume_size = Window.parse(data["window"]), tuple(data["volume_size"])
        self.extent, self.calls, self.sampler = tuple(data["extent"]), 0, None

    def set_sampler(self, scheduler: str, steps: int, guidance_scale: float = 1.0) -> None:
        if scheduler != "Fake":
            raise ValueError(f"sampler.scheduler={scheduler}: choose one of Fake")
        self.sampler = (scheduler, steps, guidance_scale)

    def describe(self) -> dict:
        return {"sampler": "Fake", "steps": 3, "guidance_scale": 1.0}

    def __call__(
        self, xray, pose, num_samples, seed, ids, extent, batch_size, progress, allow_any_picture=False
    ) -> SimpleNamespace:
        self.calls += 1
        for step in range(3):
            progress(step + 1, 3)
        volumes = []
        for image, name in zip(xray, ids, strict=True):
            clean = self._answer(image)
            for sample in range(num_samples):
                generator = torch.Generator().manual_seed(hash((seed, sample)) % 2**31 + sum(name.encode()))
                volumes.append(clean + self._noise * torch.randn(clean.shape, generator=generator))
        stacked = torch.stack(volumes).view(len(ids), num_samples, *self.volume_size)
        return SimpleNamespace(
            volumes=stacked.clamp(self.window.low, self.window.high), first_chi2=None, chi2=None, films=None
        )


def oracle(cases: FakeCases):
    """Finds the case whose X-ray it is shown and answers with its truth."""

    def answer(xray: torch.Tensor) -> torch.Tensor:
        distances = [(cases.case(i)["xray"].float()[:, None] - xray).abs().mean() for i in range(len(cases))]
        return cases.case(int(torch.stack(distances).argmin()))["ct"].float()

    return answer


def score(prediction: torch.Tensor, case: dict, window: Window, metrics="default") -> dict[str, float]:
    """The metrics of one prediction in HU."""
    tools = {FORWARD_MODEL: ForwardModel()}
    row = score_case(case, {"prediction": prediction}, window, metrics=metrics, tools=tools)[0]
    return {name: value for name, value in row.items() if name != "method"}
