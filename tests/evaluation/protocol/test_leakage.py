"""The leakage check: which protocols prove that a model has not seen a patient."""

import numpy as np
import pandas as pd
import pytest

from common.errors import UserError
from common.files import sha256
from dataset.manifest.splits import assign_folds, patients_digest
from dataset.manifest.table import make_rows
from ddpm.checkpoint.write import export_classifier
from ddpm.classifiers.ct import CTClassifier
from evaluation.protocol.leakage import (
    assign_generators,
    check_parts,
    check_patient_leakage,
    check_starting_models,
    parts_of,
    parts_of_file,
    same_parts,
    seen_patients,
)


def folder(fold: int, n_folds: int = 4, patients: int = 16) -> tuple[pd.DataFrame, dict]:
    """Rows of a data set and the protocol of a model trained on them with this fold."""
    records = [
        {"id": f"c{i}", "patient": f"p{i // 2}", "ct": f"{i}.nii", "label": (i // 2) % 2} for i in range(2 * patients)
    ]
    rows = assign_folds(make_rows(records), n_folds, fold)
    return rows, {"dataset": "d", "n_folds": n_folds, "fold": fold, "patients_sha256": patients_digest(rows)}


def phantoms(seed: int, train: int = 5, **more) -> dict:
    counts = {"train": train, "val": 2, "test": 2}
    return {"pe_share": 0.5, "seed": seed, "version": 3, "test_from": 20_000_000, "split": counts, **more}


def phantom_rows(train: int = 8) -> pd.DataFrame:
    starts = {"train": (0, train), "val": (10_000_000, 3), "test": (20_000_000, 3)}
    return make_rows({"id": f"phantom_{a + i:08d}", "patient": f"phantom_{a + i:08d}", "split": s}
                     for s, (a, n) in starts.items() for i in range(n))  # fmt: skip


def test_every_case_goes_to_the_generator_whose_test_case_it_is():
    rows, present = folder(1)
    parts = {f"g{k}": parts_of(rows, folder(k)[1], present, "g") for k in range(4)}
    chosen = assign_generators(parts, rows)
    assert (chosen == "g" + rows["fold"].astype(str)).all()


def test_without_the_generator_of_a_fold_its_cases_are_refused():
    rows, present = folder(0)
    parts = {f"g{k}": parts_of(rows, folder(k)[1], present, "g") for k in (0, 1, 2)}
    with pytest.raises(UserError, match="out-of-fold"):
        assign_generators(parts, rows)  # fold 3 was validated with by g2: that counts as seen
    single = rows.assign(fold=-1)
    trained = {"dataset": "d", "patients_sha256": patients_digest(single)}
    parts = {"g": parts_of(single, trained, present, "g")}
    with pytest.raises(UserError, match="of train"):
        assign_generators(parts, single)
    test = (single["split"] == "test").to_numpy()
    assert (assign_generators({"g": parts["g"][test]}, single[test]) == "g").all()


def test_a_fold_that_is_claimed_but_not_that_of_these_patients_is_refused():
    rows, present = folder(0)
    for wrong in ({"fold": 2}, {"patients_sha256": {"train": "", "val": "", "test": ""}}):
        with pytest.raises(UserError, match="nothing shows whom"):
            parts_of(rows, folder(0)[1] | wrong, present, "g.ckpt")
    with pytest.raises(UserError, match="g.ckpt: its protocol does not say"):
        parts_of(rows, {"dataset": "d"}, present, "g.ckpt")
    moved = rows.copy()
    moved.loc[moved.patient == "p3", ["fold", "split"]] = [(rows.fold[6] + 1) % 4, "val"]
    with pytest.raises(UserError, match="nothing shows whom"):
        parts_of(moved, folder(0)[1], present, "g.ckpt")


def test_phantoms_are_known_by_population_and_index():
    rows = phantom_rows()
    own = parts_of(rows, phantoms(0), phantoms(0), "g")
    assert own.tolist() == ["train"] * 5 + [""] * 3 + ["val"] * 2 + [""] + ["test"] * 2 + [""]
    foreign = parts_of(rows, phantoms(7), phantoms(0), "g")  # the same names in another population
    assert (foreign == "").all() and (assign_generators({"g": foreign}, rows) == "g").all()
    with pytest.raises(UserError, match="5 of train, 2 of val"):
        assign_generators({"g": own}, rows)
    assert (parts_of(rows, phantoms(0, test_from=30_000_000), phantoms(0), "g")[-3:] == "").all()


def test_a_patient_in_two_parts_an_empty_part_and_a_repeated_id_are_refused():
    rows = phantom_rows()
    check_parts(rows)
    with pytest.raises(UserError, match="phantom_00000000 is in .*train"):
        check_parts(rows.assign(patient=np.where(rows.split == "val", "phantom_00000000", rows.patient)))
    with pytest.raises(UserError, match="no case in the part test"):
        check_parts(rows[rows.split != "test"])
    with pytest.raises(UserError, match="stands in two rows"):
        check_parts(pd.concat([rows, rows.iloc[:1]]))


def test_a_classifier_is_evaluated_on_its_own_parts_only():
    rows, protocol = folder(0)
    same_parts(rows, protocol, protocol, "best")
    with pytest.raises(UserError, match="best: fold 0 in training, 1 here"):
        same_parts(rows, protocol, protocol | {"fold": 1}, "best")
    with pytest.raises(UserError, match="other patients"):
        same_parts(rows[rows.patient != "p0"], protocol, protocol, "best")


def test_a_fine_tuned_model_has_seen_what_its_origin_has_seen(tmp_path):
    rows, present = folder(1)
    network = CTClassifier(init_features=4, growth_rate=2, block_config=(1,))

    def save(name: str, protocol: dict):
        return export_classifier(network, tmp_path / f"{name}.safetensors", protocol)

    first = save("first", folder(3)[1])
    second = save("second", folder(1)[1] | {"init_from": {"file": "first", "sha256": sha256(first)}})
    for wrong in (None, second):
        with pytest.raises(UserError, match="fine-tuned from first.*origin="):
            parts_of_file(rows, second, present, wrong)
    found = parts_of_file(rows, second, present, first)
    assert not (found == "test").any()  # its test patients were in training before, those of fold 3 are now
    toys = save("toys", phantoms(0))
    second = save("second", folder(1)[1] | {"init_from": {"file": "toys", "sha256": sha256(toys)}})
    assert (parts_of_file(rows, second, present, toys) == folder(1)[0]["split"]).all()  # a phantom is no patient


def seen(fold: int, **more) -> dict:
    """Protocol of a run on this fold, as training writes it."""
    rows, protocol = folder(fold)
    return protocol | {"seen": seen_patients(rows, protocol)} | more


def test_training_patients_of_another_fold_or_split_are_not_evaluated(caplog):
    rows, present = folder(1)
    test = rows[rows["split"] == "test"]
    assert (
        check_patient_leakage(test, seen(1), present, "g", "") == {"train": 0, "val": 0, "unknown": 0}
        and not caplog.records
    )
    for other in (2, 3):
        with pytest.raises(
            UserError, match="g has trained on 4 of the 4 patients.*the fold.*allow_seen_patients=true"
        ):
            check_patient_leakage(test, seen(other), present, "g", "give the fold")
    assert (
        check_patient_leakage(test, seen(3), present, "g", "", allow=True)["train"] == 4
        and "no evidence" in caplog.text
    )
    assert (
        check_patient_leakage(test, seen(0), present, "g", "")["val"] == 4
        and "validated with 4 of the 4" in caplog.text
    )
    renamed = test.assign(id="x", ct="y")  # the same people in another table
    with pytest.raises(UserError, match="trained on 4"):
        check_patient_leakage(renamed, seen(3), {"dataset": "another"}, "g", "")
    assert "p1" not in str(seen(3)["seen"])


def test_a_run_does_not_start_from_a_model_of_another_fold_and_remembers_what_it_started_from():
    rows, present = folder(1)
    before = {"model.init_from=/private/last.ckpt": seen(1)}
    known = check_starting_models(rows, before, present)
    assert known == seen(1)["seen"]
    with pytest.raises(
        UserError, match="model.init_from=/other.ckpt has trained on .* give model.init_from a model of"
    ):
        check_starting_models(rows, {"model.init_from=/other.ckpt": seen(2)}, present)
    both = check_starting_models(rows, {"model.init_from=/other.ckpt": seen(2)}, present, allow=True)
    assert set(both["train"]) == set(seen(1)["seen"]["train"]) | set(seen(2)["seen"]["train"])
    third, there = folder(1)
    with pytest.raises(UserError, match="trained on 4 of the 4"):  # through the run in between
        check_patient_leakage(third[third["split"] == "test"], seen(1, seen=both), there, "g", "")
    old = check_starting_models(rows, {"model.init_from=/private/last.ckpt": {"dataset": "d"}}, present)
    assert old["unknown"] == ["last.ckpt"]


def test_models_that_do_not_say_are_warned_of_and_old_phantoms_known_by_their_population(caplog):
    rows, present = phantom_rows(), phantoms(0)
    test, train = rows[rows["split"] == "test"], rows[rows["split"] == "train"]
    assert check_patient_leakage(test, phantoms(0), present, "old.ckpt", "") == {"train": 0, "val": 0, "unknown": 1}
    assert "old.ckpt does not say" in caplog.text
    with pytest.raises(UserError, match="trained on 5 of the 8"):
        check_patient_leakage(train, phantoms(0), present, "old.ckpt", "")
    caplog.clear()
    known = phantoms(0) | {
        "seen": check_starting_models(rows, {"vqgan": phantoms(0) | {"seen": seen_patients(rows, present)}}, present)
    }
    assert check_patient_leakage(test, known, present, "new", "")["train"] == 0 and not caplog.records
    assert len(known["seen"]["phantoms"]) == 1 and not known["seen"]["train"]
    real, there = folder(0)
    assert check_patient_leakage(real, known, there, "new", "")["train"] == 0  # a phantom is no patient
