"""Parts that are added to a finished model: the rest keeps its bits, and the file loads with them."""

import pandas as pd
import pytest
import torch
from ddpm_parts import module
from forked_command import run_command
from safetensors.torch import load_file

from common.errors import UserError
from ddpm.checkpoint.load import load_pipeline
from ddpm.checkpoint.write import add_parts, export_pipeline
from ddpm.latent import DecoderResidual
from ddpm.pipeline import XrayToCTPipeline
from train.generator.fit_missing import fit_parts, missing_parts
from train.generator.measure_parts import SPREAD_OF, measure_spread


@pytest.fixture(scope="module")
def pipeline():
    return module().pipeline()


def measured() -> DecoderResidual:
    volume = torch.rand(16, 16, 16, generator=torch.Generator().manual_seed(0))
    return DecoderResidual().fit([(volume + 0.1, volume, None)])


def test_a_part_is_added_to_an_exported_model_and_the_rest_keeps_its_bits(pipeline, tmp_path):
    path = export_pipeline(pipeline, tmp_path / "model.safetensors", torch.bfloat16)
    assert missing_parts(load_pipeline(path), None) == [
        "decoder_residual",
        "training_spread",
    ]  # no forward model
    before, part = load_file(path), measured()
    add_parts(path, pipeline, {"decoder_residual": part}, path)
    after, again = load_file(path), load_pipeline(path)
    assert after.keys() == before.keys() | {"decoder_residual.deviation", "decoder_residual.correlation"}
    assert all(torch.equal(after[key], value) and after[key].dtype == value.dtype for key, value in before.items())
    torch.testing.assert_close(again.decoder_residual.deviation, part.deviation)
    assert again.describe()["decoder_residual"] and missing_parts(again, None) == ["training_spread"]
    again.save_pretrained(tmp_path / "folder")
    folder = XrayToCTPipeline.from_pretrained(tmp_path / "folder")
    torch.testing.assert_close(folder.decoder_residual.correlation, part.correlation)
    again.set_sampler("DPMSolverMultistepScheduler", 2, decoder_residual=False)
    assert again.residual is None and not again.describe()["decoder_residual"]


class Cases:
    """Volumes of one grey level each, N(0, 100²) HU, a third patients, morphs and phantoms."""

    def __init__(self, count: int, pipeline):
        self.window, self.read = pipeline.window, []
        self.levels = 100.0 * torch.randn(count, generator=torch.Generator().manual_seed(0))
        kinds = [("a", ""), ("morph_", "a;b"), ("phantom_", "phantom_1")]
        self.rows = pd.DataFrame([(f"{name}{i}", parents) for name, parents in kinds for i in range(count // 3)])
        self.rows.columns = ["id", "parents"]

    def __len__(self):
        return len(self.levels)

    def case(self, index):
        self.read.append(index)
        return {"ct": self.levels[index].expand(32, 32, 32), "scanned": torch.ones(32, 32, 32, dtype=torch.bool)}

    def __getitem__(self, index):
        return {"ct": self.window.normalise(self.case(index)["ct"])[None]}


def test_several_missing_parts_are_added_in_one_call(pipeline, tmp_path, capsys):
    path, cases = export_pipeline(pipeline, tmp_path / "model.safetensors", torch.bfloat16), Cases(90, pipeline)
    found = load_pipeline(path)
    parts = fit_parts(found, missing_parts(found, None), cases, torch.device("cpu"))
    again = load_pipeline(add_parts(path, found, parts, tmp_path / "new.safetensors"))
    assert missing_parts(again, None) == [] and set(parts) == {"decoder_residual", "training_spread"}
    assert again.training_spread.cases == {"patients": 20, "morphs": 20, "phantoms": 20}
    assert "in 60 cases (20 patients, 20 morphs, 20 phantoms)" in capsys.readouterr().out
    cases.read.clear()
    chosen = measure_spread(cases).sd
    assert len(cases.read) == SPREAD_OF == len(set(cases.read))
    assert chosen.mean() == pytest.approx(float(cases.levels[sorted(cases.read)].std()), abs=0.1)
    assert torch.equal(again.training_spread.sd, chosen)


def test_too_few_cases_leave_the_spread_out_and_say_so(pipeline, capsys):
    assert fit_parts(pipeline, ["training_spread"], Cases(18, pipeline), torch.device("cpu")) == {}
    assert "18 training cases, 20 are needed" in capsys.readouterr().out


def test_a_training_checkpoint_is_written_as_an_exported_model(pipeline, tmp_path):
    add_parts(tmp_path / "last.ckpt", pipeline, {"decoder_residual": measured()}, tmp_path / "new.safetensors")
    found = load_pipeline(tmp_path / "new.safetensors")
    for name, part in pipeline.networks.items():
        for key, value in part.state_dict().items():
            torch.testing.assert_close(found.networks[name].state_dict()[key], value)


def test_an_unknown_part_is_refused(pipeline):
    with pytest.raises(UserError, match="parts=.*teeth is unknown; choose of decoder_residual"):
        missing_parts(pipeline, ["teeth"])


@pytest.mark.slow
def test_the_command_adds_the_parts_that_a_training_measures(train, vae, tmp_path):
    words = [
        "dataset=phantom",
        "dataset.train=20",
        "dataset.val=1",
        "dataset.test=1",
        "dataset.volume_size=[16,16,16]",
    ]
    folder = train(tmp_path / "run", *words, f"model.vae_ckpt={vae}")
    trained = load_pipeline(folder / "last.ckpt")
    without = load_pipeline(folder / "last.ckpt")
    without.register_modules(decoder_residual=None, training_spread=None)
    path = export_pipeline(without, tmp_path / "old.safetensors", torch.float32)
    place = [f"dataset.cache_dir={tmp_path / 'cache'}", f"output={tmp_path / 'new.safetensors'}"]
    done = run_command("train/fit_parts.py", f"checkpoint={path}", "dataset.train=20", *place)
    assert done.returncode == 0, done.stderr
    found = load_pipeline(tmp_path / "new.safetensors")
    torch.testing.assert_close(found.decoder_residual.deviation, trained.decoder_residual.deviation)
    assert torch.equal(found.training_spread.sd, trained.training_spread.sd) and found.training_spread.sd.max() > 100
    assert found.training_spread.cases == trained.training_spread.cases == {"phantoms": 20}
