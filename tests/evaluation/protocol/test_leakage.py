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
    check_patient_leakage,
    check_same_splits,
    check_splits,
    check_starting_models,
    seen_patients,
    training_splits,
    training_splits_of_file,
)


def folder(fold: int, n_folds: int = 4) -> tuple[pd.DataFrame, dict]:
    """Rows of a data set and the protocol of a model trained on them with this fold."""
    records = ({"id": f"c{i}", "patient": f"p{i // 2}", "ct": f"{i}.nii", "label": (i // 2) % 2} for i in range(32))
    rows = assign_folds(make_rows(records), n_folds, fold)
    return rows, {"dataset": "d", "n_folds": n_folds, "fold": fold, "patients_sha256": patients_digest(rows)}


def phantoms(seed: int, train: int = 5, **more) -> dict:
    counts = {"train": train, "val": 2, "test": 2}
    return {"pe_share": 0.5, "seed": seed, "version": 3, "test_from": 20_000_000, "split": counts, **more}


def phantom_rows(train: int = 8) -> pd.DataFrame:
    starts = {"train": (0, train), "val": (10_000_000, 3), "test": (20_000_000, 3)}
    return make_rows({"id": f"phantom_{a + i:08d}", "patient": f"phantom_{a + i:08d}", "split": s}
                     for s, (a, n) in starts.items() for i in range(n))  # fmt: skip


def test_each_case_gets_the_generator_that_has_it_as_test_case():
    rows, present = folder(1)
    splits = {f"g{k}": training_splits(rows, folder(k)[1], present, "g") for k in range(4)}
    chosen = assign_generators(splits, rows)
    assert (chosen == "g" + rows["fold"].astype(str)).all()


def test_cases_of_a_fold_without_generator_raise():
    rows, present = folder(0)
    splits = {f"g{k}": training_splits(rows, folder(k)[1], present, "g") for k in (0, 1, 2)}
    with pytest.raises(UserError, match="out-of-fold"):
        assign_generators(splits, rows)  # g2 was validated on fold 3
    single = rows.assign(fold=-1)
    trained = {"dataset": "d", "patients_sha256": patients_digest(single)}
    splits = {"g": training_splits(single, trained, present, "g")}
    with pytest.raises(UserError, match="of train"):
        assign_generators(splits, single)
    test = (single["split"] == "test").to_numpy()
    assert (assign_generators({"g": splits["g"][test]}, single[test]) == "g").all()


def test_a_fold_of_other_patients_raises():
    rows, present = folder(0)
    for wrong in ({"fold": 2}, {"patients_sha256": {"train": "", "val": "", "test": ""}}):
        with pytest.raises(UserError, match="contain other patients"):
            training_splits(rows, folder(0)[1] | wrong, present, "g.ckpt")
    with pytest.raises(UserError, match="g.ckpt: its protocol does not contain"):
        training_splits(rows, {"dataset": "d"}, present, "g.ckpt")
    moved = rows.copy()
    moved.loc[moved.patient == "p3", ["fold", "split"]] = [(rows.fold[6] + 1) % 4, "val"]
    with pytest.raises(UserError, match="contain other patients"):
        training_splits(moved, folder(0)[1], present, "g.ckpt")


def test_phantoms_are_identified_by_population_and_index():
    rows = phantom_rows()
    own = training_splits(rows, phantoms(0), phantoms(0), "g")
    assert own.tolist() == ["train"] * 5 + [""] * 3 + ["val"] * 2 + [""] + ["test"] * 2 + [""]
    foreign = training_splits(rows, phantoms(7), phantoms(0), "g")  # the same names in another population
    assert (foreign == "").all() and (assign_generators({"g": foreign}, rows) == "g").all()
    with pytest.raises(UserError, match="5 of train, 2 of val"):
        assign_generators({"g": own}, rows)
    assert (training_splits(rows, phantoms(0, test_from=30_000_000), phantoms(0), "g")[-3:] == "").all()


def test_a_patient_in_two_splits_an_empty_split_and_a_repeated_id_raise():
    rows = phantom_rows()
    check_splits(rows)
    with pytest.raises(UserError, match="phantom_00000000 is in .*train"):
        check_splits(rows.assign(patient=np.where(rows.split == "val", "phantom_00000000", rows.patient)))
    with pytest.raises(UserError, match="no case in the split test"):
        check_splits(rows[rows.split != "test"])
    with pytest.raises(UserError, match="stands in two rows"):
        check_splits(pd.concat([rows, rows.iloc[:1]]))


def test_a_classifier_is_evaluated_on_its_own_splits_only():
    rows, protocol = folder(0)
    check_same_splits(rows, protocol, protocol, "best")
    with pytest.raises(UserError, match="best: fold 0 in training, 1 here"):
        check_same_splits(rows, protocol, protocol | {"fold": 1}, "best")
    with pytest.raises(UserError, match="other patients"):
        check_same_splits(rows[rows.patient != "p0"], protocol, protocol, "best")


def test_a_fine_tuned_model_has_seen_the_patients_of_its_origin(tmp_path):
    rows, present = folder(1)
    network = CTClassifier(init_features=4, growth_rate=2, block_config=(1,))

    def save(name: str, protocol: dict):
        return export_classifier(network, tmp_path / f"{name}.safetensors", protocol)

    first = save("first", folder(3)[1])
    second = save("second", folder(1)[1] | {"init_from": {"file": "first", "sha256": sha256(first)}})
    for wrong in (None, second):
        with pytest.raises(UserError, match="fine-tuned from first.*origin="):
            training_splits_of_file(rows, second, present, wrong)
    found = training_splits_of_file(rows, second, present, first)
    assert not (found == "test").any()  # its test patients were in training before, those of fold 3 are now
    toys = save("toys", phantoms(0))
    second = save("second", folder(1)[1] | {"init_from": {"file": "toys", "sha256": sha256(toys)}})
    assert (
        training_splits_of_file(rows, second, present, toys) == folder(1)[0]["split"]
    ).all()  # a phantom is no patient


def seen(fold: int, **more) -> dict:
    """Protocol of a run on this fold, as training writes it."""
    rows, protocol = folder(fold)
    return protocol | {"seen": seen_patients(rows, protocol)} | more


def test_training_patients_of_another_fold_or_split_are_not_evaluated(caplog):
    rows, present = folder(1)
    test = rows[rows["split"] == "test"]
    assert check_patient_leakage(test, seen(1), present, "g", "") == {"train": 0, "val": 0, "unknown": 0}
    assert not caplog.records
    for other in (2, 3):
        with pytest.raises(UserError, match="g was trained on 4 of the 4 patients.*fold.*allow_seen_patients=true"):
            check_patient_leakage(test, seen(other), present, "g", "give the fold", allow=False)
        with pytest.raises(UserError, match="give the fold, or rename") as refused:  # a command without that key
            check_patient_leakage(test, seen(other), present, "g", "give the fold")
        assert "allow_seen_patients" not in str(refused.value)
    assert check_patient_leakage(test, seen(3), present, "g", "", allow=True)["train"] == 4
    assert check_patient_leakage(test, seen(0), present, "g", "")["val"] == 4
    assert "no evidence" in caplog.text and "validated on 4 of the 4" in caplog.text
    renamed = test.assign(id="x", ct="y")  # the same people in another table
    with pytest.raises(UserError, match="trained on 4"):
        check_patient_leakage(renamed, seen(3), {"dataset": "another"}, "g", "")
    assert "p1" not in str(seen(3)["seen"])


def test_a_run_starts_from_models_of_the_same_fold_only_and_records_their_patients():
    rows, present = folder(1)
    before = {"model.init_from=/private/last.ckpt": seen(1)}
    known = check_starting_models(rows, before, present)
    assert known == seen(1)["seen"]
    with pytest.raises(UserError, match="init_from=/other.ckpt was trained on .* give model.init_from a model of"):
        check_starting_models(rows, {"model.init_from=/other.ckpt": seen(2)}, present)
    both = check_starting_models(rows, {"model.init_from=/other.ckpt": seen(2)}, present, allow=True)
    assert set(both["train"]) == set(seen(1)["seen"]["train"]) | set(seen(2)["seen"]["train"])
    third, there = folder(1)
    with pytest.raises(UserError, match="trained on 4 of the 4"):  # through the run in between
        check_patient_leakage(third[third["split"] == "test"], seen(1, seen=both), there, "g", "")
    old = check_starting_models(rows, {"model.init_from=/private/last.ckpt": {"dataset": "d"}}, present)
    assert old["unknown"] == ["last.ckpt"]


def test_old_checkpoints_without_patients_warn_and_old_phantoms_are_identified_by_their_population(caplog):
    rows, present = phantom_rows(), phantoms(0)
    test, train = rows[rows["split"] == "test"], rows[rows["split"] == "train"]
    assert check_patient_leakage(test, phantoms(0), present, "old.ckpt", "") == {"train": 0, "val": 0, "unknown": 1}
    assert "old.ckpt: the protocol has no patients" in caplog.text
    with pytest.raises(UserError, match="trained on 5 of the 8"):
        check_patient_leakage(train, phantoms(0), present, "old.ckpt", "")
    caplog.clear()
    earlier = {"vqgan": phantoms(0) | {"seen": seen_patients(rows, present)}}
    known = phantoms(0) | {"seen": check_starting_models(rows, earlier, present)}
    assert check_patient_leakage(test, known, present, "new", "")["train"] == 0 and not caplog.records
    assert len(known["seen"]["phantoms"]) == 1 and not known["seen"]["train"]
    real, there = folder(0)
    assert check_patient_leakage(real, known, there, "new", "")["train"] == 0  # a phantom is no patient
