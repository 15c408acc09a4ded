"""Volumes on one grid and window, reading of answers, and the commands that create and analyse a study."""

import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from evaluation_fakes import FakePipeline, chest_world, oracle, protocol
from forked_command import run_command
from omegaconf import OmegaConf
from reader_files import QUESTIONS, chest, make_small_study, simulate_answers

from common.errors import UserError
from common.files import ROOT
from dataset.imaging.hu_window import Window
from dataset.imaging.volume import Volume
from dataset.io.nifti import write_nifti
from evaluation.protocol.leakage import seen_patients
from evaluation.reader_study import generator_arms
from evaluation.readers.analysis import analyse
from evaluation.readers.arms import arm_maker, common_grid, onto_grid, read_table
from evaluation.readers.create import forecast
from evaluation.readers.questions import parse_questions
from evaluation.readers.study_folder import read_answers, read_key, read_study


def answer(folder: Path, shifts: dict | None = None, seed: int = 0) -> pd.DataFrame:
    """Simulated answers, written as a page would."""
    study = read_study(folder)
    answers = simulate_answers(read_key(study), study.orders, study.questions, shifts or {}, seed=seed)
    for reader, rows in answers.groupby("reader"):
        rows.drop(columns=["reader", "reading"]).astype({q.name: int for q in study.questions}).to_csv(
            folder / "answers" / f"{reader}.csv", index=False
        )
    return answers


def test_every_file_holds_the_volume_of_its_key(tmp_path):
    make_small_study(tmp_path / "study")
    for item in read_key(read_study(tmp_path / "study")):
        image = nib.load(tmp_path / "study" / "volumes" / f"{item.item}.nii")
        expected = chest(item.arm, int(item.case.removeprefix("case_"))).hu
        assert np.array_equal(np.asarray(image.dataobj).transpose(2, 1, 0), expected)
        assert image.header.get_zooms() == (3.0, 3.0, 4.0)


def test_arms_get_one_grid_one_window_and_one_crop():
    fine = Volume(np.zeros((20, 20, 20), np.float32), (1.0, 1.0, 1.0))
    coarse = Volume(np.full((9, 8, 8), 5000.0, np.float32), (2.0, 2.5, 2.5))
    size, spacing = common_grid([fine, coarse])
    assert spacing == (2.0, 2.5, 2.5) and size == (9, 8, 8)
    window = Window(-200.0, 500.0)
    for volume in (fine, coarse):
        hu = onto_grid(volume, size, spacing, window)
        assert hu.shape == size and hu.min() >= -200 and hu.max() <= 500
    with pytest.raises(UserError, match=r"spacing=\[1.0.*only blurred one"):
        common_grid([fine, coarse], spacing=(1.0, 1.0, 1.0))
    with pytest.raises(UserError, match="at most"):
        common_grid([fine, coarse], crop=(10, 8, 8))
    assert common_grid([fine, coarse], crop=(4, 4, 4))[0] == (4, 4, 4)


def test_the_crop_is_central():
    hu = np.arange(6 * 6 * 6, dtype=np.float32).reshape(6, 6, 6)
    cut = onto_grid(Volume(hu, (1.0, 1.0, 1.0)), (2, 4, 6), (1.0, 1.0, 1.0), Window(-1000.0, 1000.0))
    assert np.array_equal(cut, hu[2:4, 1:5])


class Halves(torch.nn.Module):
    """An autoencoder that halves its input."""

    device = torch.device("cpu")

    def encode_raw(self, volume):
        return volume / 2

    def decode_raw(self, latents):
        return latents


def test_arms_of_a_generator():
    cases = chest_world(2, 3)
    pipeline = FakePipeline(oracle(cases), protocol(), noise=0.0)
    pipeline.latent_encoder = Halves()
    make = arm_maker(pipeline, cases)
    real = cases.case(1)["ct"].float().numpy()
    assert np.array_equal(make("real", 1).hu, real) and np.array_equal(make("generated", 1).hu, real.clip(-1000, 1000))
    assert np.allclose(make("autoencoder", 1).hu, real.clip(-1000, 1000) / 2, atol=1e-3)
    assert make("generated", 0).spacing == pytest.approx(cases.case(0)["spacing"].tolist())


def test_patients_of_the_training_are_not_shown_and_the_key_says_so(tmp_path, monkeypatch):
    cases, data = chest_world(2, 3), protocol()
    pipeline, checkpoint = FakePipeline(oracle(cases), data), tmp_path / "last.ckpt"
    checkpoint.write_bytes(b"weights")
    cases.rows["split"] = "test"
    monkeypatch.setattr("hydra.utils.instantiate", lambda source: None)
    monkeypatch.setattr("dataset.datamodule.split_cases", lambda *_: (cases, data))
    monkeypatch.setattr("evaluation.generation.open_pipeline.open_generator", lambda *_: (pipeline, checkpoint))
    cfg = OmegaConf.create({"split": "test", "checkpoint": "a", "device": "cpu", "sampler": {},
                            "dataset": {"source": {}}})  # fmt: skip
    trained = cases.rows.assign(split="train")
    pipeline.protocol = data | {"seen": seen_patients(trained.assign(patient="another"), data)}
    *_, origin = generator_arms(cfg, 0)
    assert origin["seen_patients"] == {"train": 0, "val": 0, "unknown": 0}
    pipeline.protocol = data | {"seen": seen_patients(trained, data)}
    with pytest.raises(UserError, match="was trained on 2 of the 2 patients"):
        generator_arms(cfg, 0)


def test_answers_are_read_with_their_reading_number(tmp_path):
    make_small_study(tmp_path / "study", repeat_share=0.34)
    written = answer(tmp_path / "study")
    read = read_answers(read_study(tmp_path / "study"))
    assert len(read) == len(written) == 2 * 12
    merged = read.merge(written, on=["reader", "position"], suffixes=("", "_written"))
    for name in ("item", "reading", "origin", "pe"):
        assert (merged[name] == merged[f"{name}_written"]).all(), name


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (lambda t: t.assign(origin=3), "row 2 has origin=3; give 1 to 2"),
        (lambda t: t.assign(position=99), "position=99; give 1 to 10"),
        (lambda t: t.assign(item=t["item"].iloc[::-1].to_numpy()), "answers belong to another reader or study"),
        (lambda t: pd.concat([t, t.iloc[:1]]), "two rows have position 1"),
        (lambda t: t.drop(columns="pe"), "no column pe"),
    ],
)
def test_malformed_answers_are_refused(tmp_path, spoil, line):
    folder = tmp_path / "study"
    make_small_study(folder)
    answer(folder)
    path = folder / "answers" / "reader_01.csv"
    spoil(pd.read_csv(path, dtype={"item": str})).to_csv(path, index=False)
    with pytest.raises(UserError, match=line):
        read_answers(read_study(folder))


def test_unknown_readers_and_missing_answers_are_refused(tmp_path):
    make_small_study(tmp_path / "study")
    study = read_study(tmp_path / "study")
    with pytest.raises(UserError, match="have answered nothing"):
        read_answers(study)
    (tmp_path / "study" / "answers" / "somebody.csv").write_text("position,item\n")
    with pytest.raises(UserError, match="no reader of that name"):
        read_answers(study)
    with pytest.raises(UserError, match="action=create"):
        read_study(tmp_path / "nothing")


def test_readers_who_have_not_begun_are_missing(tmp_path):
    """Two readers are planned; one has answered."""
    make_small_study(tmp_path / "study")
    answer(tmp_path / "study")
    (tmp_path / "study" / "answers" / "reader_02.csv").unlink()
    study = read_study(tmp_path / "study")
    answers, items = read_answers(study), read_key(study, None)
    result = analyse(answers, items, study.questions, study.first_readings, draws=100)
    first = int((answers["reading"] == 1).sum())
    assert len(study.orders) == 2 and result["readers"] == 1
    assert result["missing_readings"] == 2 * len(items) - first == len(items)


def test_an_empty_answer_is_no_answer(tmp_path):
    folder = tmp_path / "study"
    make_small_study(folder)
    answer(folder)
    path = folder / "answers" / "reader_01.csv"
    pd.read_csv(path, dtype=str).assign(pe="").to_csv(path, index=False)
    read = read_answers(read_study(folder))
    assert read.loc[read.reader == "reader_01", "pe"].isna().all() and read["origin"].notna().all()


def test_the_forecast_warns_of_few_readers_and_cases(tmp_path):
    lines = forecast(make_small_study(tmp_path / "study", cases=18))
    assert any("warning: readers=2 is below 5" in line for line in lines)
    assert any("warning: cases_per_arm=6 is below 50" in line for line in lines)
    assert any("90 % interval" in line for line in lines)


def table_of_volumes(folder: Path, count: int = 6) -> Path:
    rows = []
    for index in range(count):
        row = {"id": f"case_{index}", "patient": f"patient_{index}", "label": index % 2}
        for arm in ("real", "autoencoder", "generated"):
            volume, row[arm] = chest(arm, index), f"{arm}_{index}.nii.gz"
            write_nifti(folder / row[arm], volume.hu, volume.spacing)
        rows.append(row)
    pd.DataFrame(rows).to_csv(folder / "volumes.csv", index=False)
    return folder / "volumes.csv"


def test_a_malformed_table_of_volumes_is_refused(tmp_path):
    path = table_of_volumes(tmp_path)
    rows, volume_of = read_table(path)
    assert np.array_equal(volume_of("generated", 2).hu, chest("generated", 2).hu)
    for change, line in (
        ({"generated": "none.nii"}, "row 2 has generated=none.nii"),
        ({"label": 7}, "label=7"),
        ({"id": "same"}, "two rows have the id same"),
    ):
        pd.read_csv(path).assign(**change).to_csv(tmp_path / "bad.csv", index=False)
        with pytest.raises(UserError, match=line):
            read_table(tmp_path / "bad.csv")
    with pytest.raises(UserError, match="no such file"):
        read_table(tmp_path / "missing.csv")


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    return run_command("evaluation/reader_study.py", f"study={folder / 'study'}", *arguments, cwd=folder)


@pytest.mark.slow
def test_the_command_analyses(tmp_path):
    make_small_study(tmp_path / "study", readers=3, cases=18)
    answer(tmp_path / "study")
    analysed = run(tmp_path, "action=analyse", "draws=200")
    assert analysed.returncode == 0, analysed.stderr
    assert "warning: 3 readers" in analysed.stdout and "identified real and generated CT correctly" in analysed.stdout
    folder = tmp_path / "outputs" / "reader_study_analysis" / "latest"
    page = (folder / "analysis.md").read_text()
    assert "Krippendorff" in page and "generated CT" in page
    assert (folder / "distributions.png").stat().st_size > 10_000


@pytest.mark.slow
def test_the_command_makes_a_study_and_refuses_other_actions(tmp_path):
    table = table_of_volumes(tmp_path)
    made = run(tmp_path, f"volumes={table}", "readers=3", "cases_per_arm=2", "seed=1")
    assert made.returncode == 0, made.stderr
    assert "warning: readers=3" in made.stdout and "study.json" in made.stdout
    assert {q.name for q in read_study(tmp_path / "study").questions} >= {"realism", "origin", "pe"}
    refused = run(tmp_path, "action=read")
    assert refused.returncode == 1 and "action=read: choose create or analyse" in refused.stderr


def test_the_config_asks_the_questions_of_the_protocol():
    asked = parse_questions(OmegaConf.to_container(OmegaConf.load(ROOT / "config" / "reader_study.yaml").questions))
    kinds = [question.kind for question in asked]
    assert kinds.count("ordinal") == 3 and all(len(q.choices) == 4 for q in asked if q.kind == "ordinal")
    assert [len(q.choices) for q in asked if q.kind == "pe_confidence"] == [5] and "real_or_generated" in kinds
    assert len(QUESTIONS) == 3
