"""Lesions: the filters find what is planted and nothing in noise, and the benchmark says what cannot be recovered."""

import numpy as np
import pandas as pd
import pytest
import torch
from chest_files import save_nifti, thorax
from evaluation_fakes import FakePipeline
from folder_sources import source as folder_source
from phantom_sources import phantom_source
from sklearn.metrics import roc_auc_score

from common.errors import UserError
from dataset.cases.case_dataset import CaseDataset
from dataset.cases.store import prepare_cases
from dataset.imaging.hu_window import Window
from dataset.manifest.table import make_rows, write_manifest
from dataset.phantom.lesions import HEALTHY, LESIONS, NODULES_MM, draw_lesion, lesion_of
from dataset.sources.drawn_lesions import PLACES, SCAN_LESIONS
from dataset.sources.lesion_phantoms import LesionPhantoms
from dataset.sources.morphs import MorphSource
from evaluation.detectability.detect import score_lesions, summarise, unit, verdicts
from evaluation.detectability.lesion_cases import LesionCases, with_lesions
from evaluation.detectability.matched_filter import ball_search, best_contrast, contrast
from evaluation.detectability.report import write_lesions
from evaluation.generation.sample import Sampling
from evaluation.statistics.patient_bootstrap import bootstrap_mean

SIZE, SPACING = (24, 24, 24), (2.0, 2.5, 3.0)


def ball(centre, diameter: float, height: float = 800.0) -> np.ndarray:
    axes = np.meshgrid(*(np.arange(n) * s for n, s in zip(SIZE, SPACING, strict=True)), indexing="ij")
    inside = sum((a - c * s) ** 2 for a, c, s in zip(axes, centre, SPACING, strict=True)) <= (diameter / 2) ** 2
    return height * inside


def test_contrast_is_the_planted_share_whatever_constant_is_added():
    signal, noise = ball((12, 10, 11), 15.0), np.random.default_rng(0).normal(0, 30, SIZE)
    for share in (0.0, 0.3, 1.0, -0.5):
        found = contrast(noise - 700.0 + share * signal, signal)
        assert found == pytest.approx(share + contrast(noise, signal), abs=1e-9)
        assert found == pytest.approx(share, abs=0.05)
    assert np.isnan(contrast(noise, np.zeros(SIZE)))
    elsewhere, outside = ball((4, 4, 4), 12.0), np.zeros(SIZE)
    for places in ([signal, elsewhere], [outside, signal], [signal, outside]):
        assert best_contrast(noise + signal, places) == pytest.approx(1.0, abs=0.05)
    assert np.isnan(best_contrast(noise, [outside, outside]))


def test_a_planted_ball_has_auc_1_and_noise_about_one_half():
    rng, signal, labels = np.random.default_rng(1), ball((12, 10, 11), 15.0), np.arange(60) % 2
    region = np.zeros(SIZE, bool)
    region[4:20, 4:20, 4:20] = True
    volumes = rng.normal(-800, 40, (60, *SIZE)) + np.where(labels[:, None, None, None], signal, 0.0)
    known = [contrast(volume, signal) for volume in volumes]
    blind = [ball_search(volume, region, 15.0, SPACING) for volume in volumes]
    assert roc_auc_score(labels, known) == roc_auc_score(labels, blind) == 1.0
    alone = [contrast(volume, signal) for volume in rng.normal(-800, 40, (60, *SIZE))]
    assert 0.3 < roc_auc_score(labels, alone) < 0.7  # standard deviation 0.075


def test_the_blind_search_finds_the_ball_and_not_a_sheet():
    region = np.ones(SIZE, bool)
    found = ball_search(ball((12, 10, 11), 15.0), region, 15.0, SPACING)
    assert found > 700.0  # of 800 HU
    sheet = np.zeros(SIZE)
    sheet[12] = 800.0
    assert ball_search(sheet, region, 15.0, SPACING) < 0.5 * found
    assert ball_search(np.full(SIZE, 300.0), region, 15.0, SPACING) == pytest.approx(0.0, abs=1e-6)


@pytest.fixture(scope="module")
def lesions(tmp_path_factory):
    source = phantom_source(volume_size=(24, 24, 24), xray_size=(32, 32), train=1, val=1, test=8)
    phantoms = LesionPhantoms.of(source, 6)
    paths = prepare_cases(phantoms, tmp_path_factory.mktemp("cache"), workers=0)
    return phantoms, CaseDataset(paths, phantoms.rows, "wide")


def test_a_lesion_changes_its_place_alone_and_a_clot_leaves_the_xray(lesions):
    phantoms, cases = lesions
    by_id = {str(name): cases.case(i) for i, name in enumerate(phantoms.rows["id"])}
    assert len(by_id) == 6 * (1 + len(LESIONS)) and {lesion_of(row) for row in phantoms.rows.to_dict("records")} == {
        HEALTHY,
        *LESIONS,
    }
    for patient in phantoms.rows["patient"].unique():
        healthy = by_id[f"{patient}_{HEALTHY}"]
        sizes = []
        for lesion in LESIONS:
            case = by_id[f"{patient}_{lesion}"]
            change = (case["ct"].float() - healthy["ct"].float()).abs()
            assert 0 < float((change > 0).float().mean()) < 0.25, lesion
            same = torch.equal(case["xray"], healthy["xray"])
            assert same == (lesion == "clot"), lesion
            sizes.append(float(change.sum()))
        assert sizes[0] < sizes[1] < sizes[2]  # nodules of 10, 20 and 30 mm at one place
    places = [draw_lesion(name, 3, 0).nodules[0][:2] for name in NODULES_MM]
    assert places[0] == places[1] == places[2]


def test_a_perfect_generator_keeps_all_but_the_clot_and_a_constant_one_nothing(lesions, tmp_path):
    phantoms, dataset = lesions
    data = {"window": [-1000.0, 1000.0], "volume_size": list(SIZE), "extent": list(phantoms.population.extent)}
    pipeline = FakePipeline(None, data, noise=1.0)
    cases = LesionCases(phantoms, dataset, pipeline.window)
    truths = [(cases.case(*pair)["xray"].float()[:, None], cases.truth(*pair)) for pair in cases.shown()]

    def perfect(xray):  # of a clot it shows the healthy patient, as nothing in the X-ray tells both apart
        patient = min(range(len(truths)), key=lambda i: float((truths[i][0] - xray).abs().sum()))
        owner, lesion = cases.shown()[patient]
        return cases.truth(owner, HEALTHY if lesion == "clot" else lesion)

    pipeline._answer = perfect
    constant = FakePipeline(lambda xray: torch.full(SIZE, -500.0), data, noise=1.0)
    scores = score_lesions(pipeline, cases, Sampling(2, batch_size=64), compared={"regression": constant})
    summary = summarise(scores)
    for lesion in LESIONS:
        truth, model, nothing = (summary[lesion][name] for name in ("truth", "model", "regression"))
        assert truth["kept"]["mean"] == pytest.approx(1.0, abs=0.5) and truth["known_auc"]["mean"] > 0.7, lesion
        assert nothing["kept"]["mean"] == pytest.approx(0.0, abs=0.1), lesion
        if lesion != "clot":
            assert model["known_auc"]["mean"] == truth["known_auc"]["mean"], lesion
        for name, rows in scores[scores.lesion == lesion].groupby("method"):
            if summary[lesion][name]["known_auc"] is not None:
                expected = roc_auc_score(rows.present, rows.known)
                assert summary[lesion][name]["known_auc"]["mean"] == pytest.approx(expected)
    assert summary["clot"]["xray"]["known_auc"] is None
    found = verdicts(summary)
    assert found["clot"] == "not recoverable" and found["nodule_30"] == found["collapsed_lobe"] == "detectable"
    table = write_lesions(tmp_path, scores, summary, {})
    assert "not recoverable" in table and "unchanged" in table and "NOT FOR DIAGNOSIS" in table.upper()


def test_places_of_few_ct_are_counted_and_of_many_their_patients(tmp_path):
    """Intervals over ten patients with eight places each count ten, not eighty."""

    def scores(patients: int) -> pd.DataFrame:
        rng, rows = np.random.default_rng(0), []
        for patient in range(patients):
            own = rng.normal(0, 0.3)  # the places of a patient share its error
            for place in range(8):
                row = {"lesion": "nodule_20", "patient": f"p{patient}", "subject": f"p{patient}_{place}"}
                row |= {"present": place % 2, "blind": rng.normal()}
                keeps = (0.5 + own) * row["present"] + rng.normal(0, 0.05)
                rows += [{**row, "method": m, "known": keeps} for m in ("xray", "truth", "model")]
        return pd.DataFrame(rows)

    few, many = scores(9), scores(40)
    assert (unit(few), unit(many)) == ("subject", "patient")
    kept = summarise(many)["nodule_20"]["model"]["kept"]
    means = many[many.method == "model"].groupby(["patient", "present"]).known.mean().unstack()
    expected = bootstrap_mean((means[1] - means[0]).to_numpy(), means.index.to_numpy())
    assert (kept["low"], kept["high"]) == pytest.approx((expected.low, expected.high), abs=1e-5)
    assert kept["low"] < 0.5 < kept["high"] and kept["high"] - kept["low"] > 0.1
    assert "9 patients are too few" in write_lesions(tmp_path, few, summarise(few), {})
    assert "too few" not in write_lesions(tmp_path, many, summarise(many), {})


def test_cts_are_subjects_at_every_place_and_a_perfect_generator_keeps_their_lesions(tmp_path):
    for name in "ab":
        hu = thorax((48, 45, 54), seed=ord(name))
        save_nifti(tmp_path / "data" / f"{name}.nii.gz", hu, spacing=(6.0, 6.0, 6.0))
    rows = [{"id": n, "patient": n, "ct": f"{n}.nii.gz", "split": s} for n, s in (("a", "train"), ("b", "test"))]
    write_manifest(make_rows(rows), tmp_path / "data" / "manifest.csv")
    folder = MorphSource(folder_source(tmp_path / "data", volume_size=(24, 24, 24)))
    with pytest.raises(UserError, match="places=3: give at least 4 places"):
        with_lesions(folder, None, 3)
    chests = with_lesions(folder, None, 6)
    dataset = CaseDataset(prepare_cases(chests, tmp_path / "cache", 0), chests.rows, "wide")
    data = {"window": [-1000.0, 1000.0], "volume_size": list(SIZE), "extent": [288.0, 270.0, 324.0]}
    pipeline = FakePipeline(None, data, noise=1.0)
    cases = LesionCases(chests, dataset, pipeline.window)
    assert len(cases.subjects) == 6 and {cases.patient(name) for name in cases.subjects} == {"b"}
    truths = [(cases.case(*pair)["xray"].float()[:, None], cases.truth(*pair)) for pair in cases.shown()]
    pipeline._answer = lambda xray: min(truths, key=lambda truth: float((truth[0] - xray).abs().sum()))[1]
    summary = summarise(score_lesions(pipeline, cases, Sampling(2, batch_size=64)))
    assert list(summary) == list(SCAN_LESIONS)
    clipped = LesionCases(chests, dataset, Window(-200.0, 500.0)).known(cases.subjects[0])
    assert np.array_equal(clipped.lungs, cases.known(cases.subjects[0]).lungs)  # although the window has none
    for lesion, methods in summary.items():
        # each place is shown with and without the lesion, so the anatomy behind it cancels
        assert methods["truth"]["kept"]["mean"] == pytest.approx(1.0, abs=1e-6), lesion
        assert methods["model"]["kept"]["mean"] == pytest.approx(1.0, abs=0.1), lesion
        count = 2 * PLACES.get(lesion, 6)
        assert methods["xray"]["subjects"] == count and methods["xray"]["kept"]["mean"] == pytest.approx(1.0), lesion


def test_a_hidden_lesion_leaves_out_its_patient_and_does_not_make_the_lesion_unrecoverable():
    rows = [
        {
            "lesion": "nodule_20",
            "patient": f"p{i}",
            "subject": f"p{i}",
            "present": i % 2,
            "method": m,
            "known": i % 2 + 0.01 * i,
            "blind": i,
        }
        for i in range(12)
        for m in ("xray", "truth", "model")
    ]
    scores = pd.DataFrame(rows)
    scores.loc[scores.patient == "p0", "known"] = np.nan
    summary = summarise(scores)
    assert {found["subjects"] for found in summary["nodule_20"].values()} == {11}
    assert summary["nodule_20"]["truth"]["known_auc"]["mean"] == 1.0
    assert verdicts(summary) == {"nodule_20": "detectable"}
    scores.loc[scores.method == "xray", "known"] = np.nan
    assert verdicts(summarise(scores)) == {"nodule_20": "not recoverable"}


def test_one_of_six_lesions_needs_more_than_an_interval_above_one_half():
    def entry(p):
        return {"model": {"known_auc": {"mean": 0.7, "low": 0.52, "high": 0.88, "p": p}}, "xray": {"subjects": 9}}

    assert verdicts({"nodule_30": entry(0.03)}) == {"nodule_30": "detectable"}
    six = {f"lesion_{i}": entry(0.03) for i in range(6)}
    assert set(verdicts(six).values()) == {"not shown"}
    assert verdicts(six | {"lesion_0": entry(0.001)})["lesion_0"] == "detectable"
