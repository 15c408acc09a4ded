"""The leak check: what proves that a generator has not seen a patient, and that everything else is refused."""

import numpy as np
import pandas as pd
import pytest

from dataset.errors import UserError
from dataset.manifest import make_rows
from dataset.splits import assign_folds, patients_digest
from ddpm.checkpoint import export_classifier, sha256
from ddpm.classifier import CTClassifier
from evaluation.unseen import check_parts, choose_unseen, parts_of, parts_of_file, same_parts


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
    chosen = choose_unseen(parts, rows)
    assert (chosen == "g" + rows["fold"].astype(str)).all()


def test_without_the_generator_of_a_fold_its_cases_are_refused():
    rows, present = folder(0)
    parts = {f"g{k}": parts_of(rows, folder(k)[1], present, "g") for k in (0, 1, 2)}
    with pytest.raises(UserError, match="out-of-fold"):
        choose_unseen(parts, rows)  # fold 3 was validated with by g2: that counts as seen
    single = rows.assign(fold=-1)
    trained = {"dataset": "d", "patients_sha256": patients_digest(single)}
    parts = {"g": parts_of(single, trained, present, "g")}
    with pytest.raises(UserError, match="of train"):
        choose_unseen(parts, single)
    test = (single["split"] == "test").to_numpy()
    assert (choose_unseen({"g": parts["g"][test]}, single[test]) == "g").all()


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
    assert (foreign == "").all() and (choose_unseen({"g": foreign}, rows) == "g").all()
    with pytest.raises(UserError, match="5 of train, 2 of val"):
        choose_unseen({"g": own}, rows)
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


def test_a_classifier_is_judged_on_its_own_parts_only():
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
