"""The generated arm of a reader study, from cases with two views and with one, by weights that take both."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
from ddpm_parts import EXTENT, VOLUME, shared_pipeline

from dataset.imaging.geometry import unknown_pose
from evaluation.readers.arms import arm_maker


def cases(views: int):
    xrays = torch.rand(2, 64, 64, generator=torch.Generator().manual_seed(1))[:views]
    case = {"ct": torch.zeros(VOLUME), "xray": xrays, "pose": unknown_pose(views, ("PA", "lateral")[:views]),
            "spacing": torch.tensor(EXTENT) / 32, "centre": torch.zeros(3)}  # fmt: skip
    return SimpleNamespace(case=lambda index: case, rows=pd.DataFrame({"id": ["a"]}))


def test_the_generated_arm_uses_the_views_of_the_case():
    pipeline = shared_pipeline()
    both, alone = (arm_maker(pipeline, cases(views))("generated", 0).hu for views in (2, 1))
    assert both.shape == alone.shape == VOLUME and not np.array_equal(both, alone)
    xray = cases(1).case(0)["xray"][None, :, None]
    expected = pipeline(xray, ids=["a"], allow_any_picture=True, batch_size=1).volumes[0, 0]
    np.testing.assert_array_equal(alone, expected.numpy())
