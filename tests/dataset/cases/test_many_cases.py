"""The memory and the samples of a loading process do not depend on the number of rows."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from phantom_sources import phantom_source

from common.files import ROOT
from dataset.cases.case_dataset import CaseDataset
from dataset.cases.step_sampler import StepBatchSampler
from dataset.cases.store import prepare_cases
from ddpm.latent.latent_dataset import LatentDataset, StoredLatents, write_latents

MEASURE = """
import json, sys
from pathlib import Path
sys.path.insert(0, {root!r})
import pandas as pd, torch
from torch.utils.data import DataLoader, get_worker_info
from dataset.cases.step_sampler import StepBatchSampler
from dataset.cases.case_dataset import CaseDataset
from ddpm.latent.latent_dataset import LatentDataset, StoredLatents

count, case, latent = int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
class Statistics:
    latent_mean, latent_std = torch.zeros(4), torch.ones(4)
rows = pd.DataFrame({{"id": [f"case_{{i:06d}}" for i in range(count)], "label": 0}})
cases = CaseDataset([case] * count, rows, "wide")
data = LatentDataset(cases, StoredLatents([latent] * count, Statistics)) if latent.name != "none" else cases

def private():
    lines = open("/proc/self/smaps_rollup").read().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024

class Weighed(torch.utils.data.Dataset):
    def __len__(self):
        return count
    def __getitem__(self, key):
        data[key]
        return private() if key[1] % 10 == 9 else 0.0

sampler = StepBatchSampler(count, 4, 60)
sizes = [batch.max().item() for batch in DataLoader(Weighed(), batch_sampler=sampler, num_workers=1)]
print(json.dumps({{"worker": max(sizes), "process": private()}}))
"""


@pytest.fixture(scope="module")
def case(tmp_path_factory) -> Path:
    source = phantom_source(train=1, val=1, test=1, volume_size=(16, 16, 16), xray_size=(32, 32))
    return prepare_cases(source, tmp_path_factory.mktemp("cache"), workers=0)[0]


@pytest.fixture(scope="module")
def latents(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("latents")
    files = [folder / f"{i}.safetensors" for i in range(7)]
    for i, file in enumerate(files):
        write_latents(torch.randn(4, 3, 5, 6, generator=torch.Generator().manual_seed(i)) * (i + 1) + i, file)
    return files


@pytest.mark.processes
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("stage", ["volumes", "latents"])
def test_memory_of_a_loading_process_does_not_grow_with_the_manifest(stage, case, latents):
    file = latents[0] if stage == "latents" else "none"
    sizes = {}
    for count in (100, 10_000):
        command = [sys.executable, "-c", MEASURE.format(root=str(ROOT)), str(count), str(case), str(file)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        sizes[count] = json.loads(done.stdout.splitlines()[-1])
    print(f"{stage}: {sizes}")
    for who in ("worker", "process"):  # MB; the table and the paths of 10,000 rows are a few
        assert sizes[10_000][who] < sizes[100][who] + 16, sizes


class Encoder:
    """Statistics alone."""

    measured = True

    def __init__(self, raw: torch.Tensor):
        self.latent_std, self.latent_mean = torch.std_mean(raw, dim=(0, 2, 3, 4))


def test_latents_on_disk_are_those_in_memory(case, latents):
    from ddpm.latent.latent_dataset import read_latents

    raw, rows = read_latents(latents), pd.DataFrame({"id": [str(i) for i in range(7)], "label": 0})
    encoder = Encoder(raw)
    white = (raw - encoder.latent_mean.view(1, -1, 1, 1, 1)) / encoder.latent_std.view(1, -1, 1, 1, 1)
    cases = CaseDataset([case] * 7, rows, "wide")
    kept, stored = LatentDataset(cases, white), LatentDataset(cases, StoredLatents(latents, encoder))
    assert len(kept) == len(stored) == 7
    for batch in StepBatchSampler(7, 3, 4, seed=1):
        one, two = kept.__getitems__(batch), stored.__getitems__(batch)
        assert one.keys() == two.keys()
        assert all(torch.equal(one[k], two[k]) if isinstance(one[k], torch.Tensor) else one[k] == two[k] for k in one)
    assert torch.equal(torch.cat(list(stored.latents.split(3))), white)
    pooled = torch.nn.functional.adaptive_avg_pool2d(kept.xrays(8).flatten(0, 1), 8)
    assert torch.allclose(stored.xrays(8).flatten(0, 1), pooled)


@pytest.mark.parametrize("scaling", ["unit", "range"])
def test_statistics_of_parts_are_those_of_the_whole(scaling):
    from vae_files import tiny

    from ddpm.latent import SliceVAELatents

    raw = torch.randn(10, 4, 3, 4, 5) * 3 + 1
    whole, parts = (SliceVAELatents.from_vae(tiny(), "test", 4).set_scaling(scaling) for _ in range(2))
    whole.measure(raw)
    parts.measure(part for part in raw.split(3))
    assert torch.allclose(whole.latent_mean, parts.latent_mean, atol=1e-6) and parts.measured
    assert torch.allclose(whole.latent_std, parts.latent_std, rtol=1e-6)


def test_ten_thousand_rows_are_shuffled_by_seed_and_epoch_and_resumed_in_place():
    def batches(start: int = 0, seed: int = 0) -> list:
        return list(StepBatchSampler(10_000, 100, 300, seed=seed, start=start))

    whole = batches()
    epochs = [[index for batch in whole[e * 100 : e * 100 + 100] for index, _ in batch] for e in range(3)]
    assert all(sorted(epoch) == list(range(10_000)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] and batches(seed=1) != whole
    assert batches(start=217) == whole[217:]
