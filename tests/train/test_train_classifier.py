"""Tiny classifiers through the commands: trained on CTs, X-rays and generated volumes, in folds, and compared."""

import importlib
import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from safetensors.torch import load_file

from common.errors import UserError
from common.files import ROOT
from dataset.imaging.hu_window import Window
from dataset.io.nifti import write_nifti
from dataset.phantom.render import render_phantom
from ddpm.checkpoint.load import load_classifier, load_pipeline
from train.classifier.data import encoder_source
from train.classifier.networks import xray_classifier
from train.generator.build_losses import _classifier
from train.run.run_folder import RUN_FOLDER

SIZE = ["dataset.volume_size=[8,16,16]", "dataset.xray_size=[32,32]", "dataset.prepare_workers=0"]
SHORT = ["model.gpus=0", "model.train_num_steps=8", "model.validate_every=4", "model.batch_size=4",
         "model.warmup_steps=1", "model.train_lr=1e-3"]  # fmt: skip
SMALL = ["classifier.init_features=4", "classifier.growth_rate=4", "classifier.block_config=[2,2]"]
NETWORKS = {
    "ctpa": SMALL,
    "generated": SMALL,
    "xray": ["classifier.encoder.width=16", "classifier.encoder.blocks=1"],
    "xray_torchvision": ["classifier.architecture=resnet18", "classifier.image_size=32"],
}


def call(script: str, overrides: list[str]) -> None:
    """Runs a command in this process."""
    path = list(sys.path)
    module = importlib.import_module(f"{'train' if script.startswith('train') else 'evaluation'}.{script}")
    sys.path[:] = path  # the script replaces the first entry
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(RUN_FOLDER, raising=False)
        with initialize_config_dir(str(ROOT / "config"), version_base="1.3"):
            cfg = compose(script, overrides)
        module.main.__wrapped__(cfg)
        os.environ.pop(RUN_FOLDER, None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Contrast CTs of 15 phantom patients with their labels, views and ages: X-rays are made from them."""
    root = tmp_path_factory.mktemp("folder")
    records = []
    for i in range(15):
        phantom = render_phantom(i, size=(24, 32, 32), extent=(320.0, 256.0, 352.0))
        write_nifti(root / f"ct_{i}.nii.gz", torch.as_tensor(phantom.hu, dtype=torch.float32), phantom.spacing)
        row = {"id": f"case_{i}", "patient": f"patient_{i}", "ct": f"ct_{i}.nii.gz", "label": i % 2, "age": 40 + 2 * i}
        records.append(row | {"view": "PA" if i % 3 else "AP", "sex": "FM"[i % 2], "hours_xray_to_ct": i})
    records.append(records[0] | {"id": "case_15", "label": -1})  # a second CT without label
    pd.DataFrame(records).to_csv(root / "manifest.csv", index=False)
    return root


@pytest.fixture(scope="module")
def study(folder, train, vae, tmp_path_factory) -> dict:
    """Three folds: a generator and three classifiers of each."""
    root = tmp_path_factory.mktemp("study")
    data = ["dataset=default", f"dataset.root_dir={folder}", "dataset.film_augment=false", *SIZE,
            f"dataset.cache_dir={root}/cache", "dataset.n_folds=3"]  # fmt: skip
    generators = []
    for fold in range(3):
        options = [f"dataset.fold={fold}", f"model.vae_ckpt={vae}", "model.train_num_steps=2"]
        run = train(root / "generators" / str(fold), *data, *options)
        (run / "saved2.ckpt").unlink()
        generators.append(str(run / "last.ckpt"))
    runs, made = root / "runs", ["sampler.steps=1", f"classifier.generators=[{','.join(generators)}]"]
    brief = [*SHORT, "model.train_num_steps=4"]
    for fold in range(3):
        extra = {"generated": made, "xray": [f"classifier.init_from={generators[fold]}"]}
        for name in ("ctpa", "xray", "generated"):
            options = [*brief, *NETWORKS[name], *extra.get(name, []), f"dataset.fold={fold}"]
            call(
                "train_classifier",
                [f"classifier={name}", *data, *options, f"model.results_folder={runs}/{name}{fold}"],
            )
    return {"data": data, "runs": runs, "generators": generators, "root": root}


@pytest.mark.slow
def test_the_study_in_folds_gives_every_row_every_file_and_no_pooled_auc(study, capsys):
    out = study["root"] / "out"
    call("classification", [*study["data"], f"search={study['runs']}", f"generators=[{','.join(study['generators'])}]",
                            "sampler.steps=1", f"output={out}", "margin=0.1", "draws=100", "device=cpu"])  # fmt: skip
    result = json.loads((out / "classification.json").read_text())
    names = {"ctpa", "xray", "generated", "ctpa_on_generated", "metadata"}
    assert set(result["classifiers"]) == names and result["cases"]["test"] == 15
    for one in result["classifiers"].values():
        assert len(one["auc"]["folds"]) == 3 and one["auc"]["mean"] == pytest.approx(np.mean(one["auc"]["folds"]))
        assert one["auc"]["low"] <= one["auc"]["mean"] <= one["auc"]["high"]
    assert result["primary"]["first"] == "generated" and result["primary"]["second"] == "xray"
    assert "not X-ray evidence" in result["classifiers"]["generated"]["notes"][0]
    assert not result["protocol"]["phantoms"] and result["protocol"]["generators"]["estimator"] == "one sample"
    scores = pd.read_csv(out / "scores.csv")
    assert sorted(scores[scores.part == "test"].id) == sorted(f"case_{i}" for i in range(15))
    files = {"table.md", "table.csv", "table.png", "roc.png", "precision_recall.png", "reliability.png"}
    assert files <= {file.name for file in out.iterdir()}
    shown = capsys.readouterr().out
    assert shown.index("primary comparison, specified in advance") < shown.index("| classifier |")


@pytest.mark.slow
def test_generated_volumes_come_from_the_generator_whose_test_patient_it_is(study):
    by_owner = {}
    for file in study["root"].glob("cache/*/generated-*/*.safetensors"):
        by_owner.setdefault(file.parent.name, set()).add(file.name.split("-")[0])
        assert load_file(file)["ct"].dtype == torch.int16
    assert len(by_owner) == 3
    (manifest,) = study["root"].glob("cache/*/manifest_fold_0_of_3.csv")
    rows = pd.read_csv(manifest)
    assert {frozenset(ids) for ids in by_owner.values()} == {frozenset(g.id) for _, g in rows.groupby("fold")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "overrides", "words"),
    [
        ("generated", ["classifier.generators=[{g0},{g1}]"], "out-of-fold"),
        ("generated", ["classifier.generators=[{g0},{g1},{g2}]", "dataset.seed=5"], "contain other patients"),
        ("generated", [], "generators: none given"),
        ("generated", ["classifier.generators={root}/nowhere"], "no such file"),
        ("xray", ["classifier.init_from={g1}"], "trained on 5 test cases|trained on 6 test cases"),
    ],
)
def test_leakage_is_rejected_before_training(study, name, overrides, words):
    places = {f"g{i}": path for i, path in enumerate(study["generators"])} | {"root": study["root"]}
    given = [o.format(**places) for o in overrides]
    fold = ["dataset.fold=0", f"model.results_folder={study['root']}/refused"]
    with pytest.raises(UserError, match=words):
        call("train_classifier", [f"classifier={name}", *study["data"], *SHORT, *NETWORKS[name], *fold, *given])
    assert not list((study["root"] / "refused").glob("**/best.safetensors"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["search={runs}"], "give generators="),
        (["search={runs}", "generators=[{g0}]"], "other files|out-of-fold"),
        (["search={runs}", "generators=[{g0},{g1},{g2}]", "sampler.steps=3"], "sampler"),
        (["search={root}/empty"], "none under"),
        (["classifiers=[{runs}/ctpa0,{runs}/ctpa1,{runs}/xray0]"], "xray has not been trained for fold 1"),
        (["classifiers=[{runs}/ctpa0]", "dataset.seed=5"], "seed|other patients"),
        (["classifiers=[{runs}/ctpa0]", "dataset.volume_size=[8,16,32]"], "volume_size"),
        (["classifiers=[{g0}]"], "no classifier of"),
    ],
)
def test_a_comparison_with_other_settings_than_training_is_rejected(study, overrides, words):
    places = {f"g{i}": path for i, path in enumerate(study["generators"])}
    given = [o.format(**places, root=study["root"], runs=study["runs"]) for o in overrides]
    out = study["root"] / "refused"
    with pytest.raises(UserError, match=words):
        call("classification", [*study["data"], f"output={out}", "device=cpu", "sampler.steps=1", *given])
    assert not out.exists() or not list(out.glob("*.json"))


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory) -> list[str]:
    cache = tmp_path_factory.mktemp("phantoms")
    return [*SIZE, "dataset.train=8", "dataset.val=6", "dataset.test=6", f"dataset.cache_dir={cache}"]


def test_the_best_weights_are_kept_and_load_again(phantoms, tmp_path, capsys):
    call("train_classifier", ["classifier=xray_torchvision", *phantoms, *SHORT, *NETWORKS["xray_torchvision"],
                              f"model.results_folder={tmp_path}", "model.balance=sampling"])  # fmt: skip
    (best,) = tmp_path.glob("*/checkpoints/best.safetensors")
    classifier, protocol = load_classifier(best)
    assert protocol["input"] == "xray" and "window" not in protocol and protocol["chosen"]["batches"] in (4, 8)
    one, two = torch.rand(2, 1, 1, 32, 32), torch.rand(1, 2, 1, 32, 32)
    with torch.no_grad():
        assert classifier(one).shape == (2,)
        views = (classifier(two[:, :1]) + classifier(two[:, 1:])) / 2
        assert torch.allclose(classifier(two), views, atol=1e-4)
    shown = capsys.readouterr().out
    assert "±" in shown and shown.index("primary comparison") < shown.index("validation AUC")
    last, _ = load_classifier(next(tmp_path.glob("*/checkpoints/last.ckpt")))
    assert type(last) is type(classifier)


def test_the_ct_classifier_serves_as_the_loss_of_a_generator(phantoms, tmp_path):
    call("train_classifier", ["classifier=ctpa", *phantoms, *SHORT, *SMALL, f"model.results_folder={tmp_path}"])
    (best,) = tmp_path.glob("*/checkpoints/best.safetensors")
    assert _classifier(str(best), Window.parse("wide"))(torch.zeros(1, 1, 8, 16, 16)).shape == (1,)


def test_training_ends_after_its_patience_and_resumes(phantoms, tmp_path):
    base = ["classifier=ctpa", *phantoms, *SHORT, *SMALL, "model.validate_every=2", "model.train_num_steps=40",
            "model.train_lr=1e-12", "model.patience=2"]  # fmt: skip
    call("train_classifier", [*base, f"model.results_folder={tmp_path}/stopped"])
    (last,) = tmp_path.glob("stopped/*/checkpoints/last.ckpt")
    assert torch.load(last, weights_only=True)["global_step"] < 40
    runs = {}
    for name, steps in (("whole", 8), ("parts", 4)):
        longer = [*base, "model.patience=null", "model.train_lr=1e-3", f"model.results_folder={tmp_path}/{name}",
                  "model.warmup_steps=0"]  # fmt: skip
        call("train_classifier", [*longer, f"model.train_num_steps={steps}"])
        if name == "parts":
            further = ["model.train_num_steps=8", "model.resume=auto"]
            call("train_classifier", [*longer, *further])
        (runs[name],) = tmp_path.glob(f"{name}/*/checkpoints/last.ckpt")
    whole, parts = (torch.load(run, weights_only=True) for run in runs.values())
    assert whole["global_step"] == parts["global_step"] == 8


@pytest.mark.slow
def test_init_from_loads_the_weights_of_the_encoder(study):
    classifier = xray_classifier(None, study["generators"][0], dropout=0.0)
    theirs = load_pipeline(study["generators"][0]).xray_encoder
    assert all(torch.equal(a, b) for a, b in zip(classifier.body.parameters(), theirs.parameters(), strict=True))
    assert all(p.requires_grad for p in classifier.parameters())


@pytest.mark.slow
def test_a_run_with_a_folder_of_generators_resumes(study, tmp_path):
    words = [*study["data"], "dataset.fold=0", "classifier=xray", *NETWORKS["xray"], *SHORT,
             f"classifier.init_from={study['root']}/generators", f"model.results_folder={tmp_path}"]  # fmt: skip
    for _ in range(2):
        call("train_classifier", [*words, "model.resume=auto"])
    assert len(list(tmp_path.glob("*/checkpoints/last.ckpt"))) == 1


@pytest.mark.slow
def test_a_folder_of_generators_gives_that_of_the_same_fold(study):
    for fold in range(3):
        assert encoder_source(str(study["root"] / "generators"), fold) == study["generators"][fold]
    assert (
        encoder_source(study["generators"][1], 0) == study["generators"][1]
    )  # the leakage check may reject a named one
    with pytest.raises(UserError, match="other folds"):
        encoder_source(str(study["root"] / "generators"), 7)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["classifier=ctpa", "dataset.volume_size=[8,8,8]"], "dataset.volume_size=.*does not suit"),
        (["classifier=ctpa", *SMALL, "dataset.pe_share=0.0"], "0 positive"),
        (["classifier=ctpa", *SMALL, "model.balance=both"], "model.balance=both"),
        (["classifier=ctpa", *SMALL, "model.expected_auc=1.5"], "expected_auc=1.5"),
        (["classifier=xray_torchvision", "classifier.weights=nowhere.pth"], "nowhere.pth"),
        (["classifier=xray", "classifier.init_from=nowhere.ckpt"], "nowhere.ckpt"),
        (["classifier=ctpa", *SMALL, "dataset.val=0"], "no case in the split val"),
    ],
)
def test_mistakes_are_named_in_a_line(phantoms, tmp_path, overrides, words):
    with pytest.raises((UserError, InstantiationException)) as caught:
        call("train_classifier", [*phantoms, *SHORT, f"model.results_folder={tmp_path}", *overrides])
    assert re.search(words, f"{caught.value} {caught.value.__cause__}")
