"""Blinding: assignment to arms, reading orders, and the sealed key."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from reader_files import QUESTIONS, make_small_study

from common.errors import UserError
from evaluation.readers.design import ARMS, Item, assign_arms, reading_order
from evaluation.readers.questions import parse_questions
from evaluation.readers.study_folder import key_folder, read_key, read_study


def table(count: int, positives: int = 0) -> pd.DataFrame:
    labels = [1] * positives + [0] * (count - positives)
    return pd.DataFrame(
        {"id": [f"c{i}" for i in range(count)], "patient": [f"p{i}" for i in range(count)], "label": labels}
    )


def some_items(count: int) -> list[Item]:
    return [Item(f"{i:08x}", ARMS[i % 3], f"c{i // 3}", f"p{i // 3}", 0) for i in range(count)]


def test_apart_shows_a_patient_once_and_balances_labels():
    cases = table(60, positives=24)
    pairs = assign_arms(cases, None, "apart", np.random.default_rng(0))
    assert len({name for _, name in pairs}) == 60
    label = dict(zip(cases.id, cases.label, strict=True))
    for arm in ARMS:
        mine = [label[name] for a, name in pairs if a == arm]
        assert len(mine) == 20 and sum(mine) == 8
    few = assign_arms(cases, 5, "apart", np.random.default_rng(0))
    assert len(few) == 15 and sum(label[name] for _, name in few) in (5, 6, 7)  # the share of positives stays


def test_shared_shows_every_case_in_every_arm_and_one_case_a_patient():
    cases = pd.concat([table(6), table(6).assign(id=[f"second{i}" for i in range(6)])], ignore_index=True)
    pairs = assign_arms(cases, 6, "shared", np.random.default_rng(0))
    assert len(pairs) == 18 and len({name for _, name in pairs}) == 6
    with pytest.raises(UserError, match="6 patients.*apart allow 1 to 2.*assignment=shared"):
        assign_arms(cases, 3, "apart", np.random.default_rng(0))
    with pytest.raises(UserError, match="assignment=mixed"):
        assign_arms(cases, 3, "mixed", np.random.default_rng(0))


def test_every_item_is_read_and_a_share_repeated():
    items = some_items(60)
    order = reading_order(items, 0.2, np.random.default_rng(3))
    assert len(order) == 72 and set(order) == {item.item for item in items}
    places = {code: [i for i, c in enumerate(order) if c == code] for code in set(order)}
    again = [p for p in places.values() if len(p) == 2]
    assert len(again) == 12 and all(second - first > 15 for first, second in again)
    assert sorted(reading_order(items, 1.0, np.random.default_rng(0))) == sorted(2 * [item.item for item in items])
    with pytest.raises(UserError, match="repeat_share=2"):
        reading_order(items, 2.0, np.random.default_rng(0))


def test_versions_of_a_patient_are_separated():
    items = some_items(60)
    patient = {item.item: item.patient for item in items}
    order = reading_order(items, 0.0, np.random.default_rng(1))
    owners = [patient[code] for code in order]
    gaps = [j - i for i in range(60) for j in range(i + 1, 60) if owners[i] == owners[j]]
    assert np.mean(np.array(gaps) > 5) > 0.9


def test_orders_differ_between_readers_and_arms_are_spread_over_them(tmp_path):
    make_small_study(tmp_path / "study", readers=3, cases=30)
    study = read_study(tmp_path / "study")
    assert len({tuple(order) for order in study.orders.values()}) == 3
    arm = {item.item: item.arm for item in read_key(study)}
    first = [
        np.mean([i for i, code in enumerate(order) if arm[code] == "generated"]) for order in study.orders.values()
    ]
    assert all(8 < place < 24 for place in first)


def test_open_files_do_not_reveal_the_arm(tmp_path):
    folder = tmp_path / "study"
    make_small_study(folder)
    text = (folder / "study.json").read_text()
    assert not re.search(r"autoencoder|patient_|case_\d|\"seed\"", text)
    volumes = sorted((folder / "volumes").iterdir())
    assert len(volumes) == 9
    assert len({file.stat().st_size for file in volumes}) == 1 and len({file.stat().st_mtime for file in volumes}) == 1
    heads = {file.read_bytes()[:348] for file in volumes}
    assert len(heads) == 1 and b"MAY BE SYNTHETIC" in heads.pop()  # one header for all, and it warns
    assert not list(folder.glob("**/*key*"))
    codes = [entry["item"] for entry in json.loads(text)["items"]]
    assert codes == sorted(codes)


def test_a_changed_key_is_refused(tmp_path):
    make_small_study(tmp_path / "study")
    study, path = read_study(tmp_path / "study"), tmp_path / "study-key" / "key.json"
    assert path.stat().st_mode & 0o077 == 0
    assert {item.arm for item in read_key(study)} == set(ARMS)
    path.write_text(path.read_text().replace('"real"', '"generated"', 1))
    with pytest.raises(UserError, match="SHA-256.*sealed"):
        read_key(study)
    path.unlink()
    with pytest.raises(UserError, match="no key there"):
        read_key(study)
    with pytest.raises(UserError, match="which readers see"):
        key_folder(tmp_path / "study", tmp_path / "study" / "key")
    with pytest.raises(UserError, match="there is a study already"):
        make_small_study(tmp_path / "study")


def test_the_same_seed_makes_the_same_study_but_another_seal(tmp_path):
    first, second = (make_small_study(tmp_path / name, seed=5) for name in "ab")
    assert first["readers"] == second["readers"]
    seals = {read_study(tmp_path / name).about["key_sha256"] for name in "ab"}
    assert len(seals) == 2  # the hash does not reveal the seed
    assert make_small_study(tmp_path / "c", seed=None)["readers"] != first["readers"]


@pytest.mark.parametrize(
    ("questions", "line"),
    [
        ([QUESTIONS[0] | {"kind": "essay"}], "kind=essay"),
        *(
            ([QUESTIONS[0] | {"name": name}], f"'{name}' cannot be a column")
            for name in ("item", "label", "case", "arm", "patient", "reading")
        ),
        ([QUESTIONS[0] | {"choices": ["one"]}], "1 choices"),
        ([QUESTIONS[0] | {"kind": "real_or_generated"}], "are real, generated"),
        ([QUESTIONS[0], QUESTIONS[0]], "two have the name realism"),
        ([QUESTIONS[2], QUESTIONS[2] | {"name": "other"}], "second of kind pe_confidence"),
        ([], "none"),
    ],
)
def test_invalid_questions_are_refused(questions, line):
    with pytest.raises(UserError, match=line):
        parse_questions(questions)
