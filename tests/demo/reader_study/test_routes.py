"""The readers' routes: blinded and resumable; no response reveals an arm."""

import json
import os

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from reader_files import chest, make_small_study

pytest.importorskip("fastapi", reason="FastAPI is not installed, the readers' page is not tested")
from reader_browser import Reader, app, codes, made, mounted, readers, study  # noqa: F401 (fixtures)
from starlette.middleware.gzip import GZipMiddleware  # noqa: E402

from common.errors import UserError  # noqa: E402
from demo.reader_study.routes import PAGES, readers_app  # noqa: E402
from evaluation.readers.study_folder import MARK, read_answers, read_study  # noqa: E402


def test_a_reader_sees_the_order_and_the_analysis_reads_the_answers(readers, made, study):
    one, _ = readers
    by_code, opened = {item.item: item for item in made[1]}, read_study(study)
    for position, code in enumerate(opened.orders["reader_01"], start=1):
        assert (one.last["position"], one.last["total"]) == (position, 12)
        hu = np.asarray(nib.Nifti1Image.from_bytes(one.volume().content).dataobj).transpose(2, 1, 0)
        item = by_code[code]
        assert np.array_equal(hu, chest(item.arm, int(item.case.removeprefix("case_"))).hu)
        assert one.answer("origin", 1 + (item.arm == "generated")).status_code == 200
        one.go_on()
    assert one.last["reading"] is None
    merged = read_answers(opened).merge(
        pd.DataFrame([vars(item) for item in made[1]]), on="item", validate="many_to_one"
    )
    assert len(merged) == 12 and ((merged["origin"] == 2) == (merged["arm"] == "generated")).all()


def test_the_traffic_contains_no_arm_case_patient_item_or_key(readers, made, study):
    for reader in readers:
        for page in PAGES:
            reader.get(f"/readers/{page}")
        while reader.last["reading"]:
            reader.get("/readers/api/reading")
            reader.volume()
            reader.answer("realism", 2)
            reader.go_on()
    text = b"\n".join(part for reader in readers for part in reader.traffic)
    opened = read_study(study)
    forbidden = {opened.about["key_sha256"], "autoencoder", "reader_01", "reader_02", str(study)}
    for item in made[1]:
        forbidden |= {item.item, item.case, item.patient}
    found = [word for word in forbidden if word.encode() in text.lower().replace(MARK.lower().encode(), b"")]
    # The only words of an arm are those of the question itself, the same before every volume.
    assert sorted(found) == []
    rest = text.replace(b'["real", "generated"]', b"").replace(b'["real","generated"]', b"")
    assert b"generated" not in rest and b'"arm' not in rest


def test_responses_of_two_arms_differ_in_voxels_only(tmp_path):
    """With equal voxels in all arms, responses may differ only in name and number of the reading."""
    same = chest("real", 0)
    make_small_study(tmp_path / "study", readers=1, cases=6, seed=3, volumes=lambda arm, index: same, repeat_share=0.0)
    for number, path in enumerate(sorted((tmp_path / "study" / "volumes").iterdir())):
        os.utime(path, (number * 1000, number * 1000))  # as a copy would
    app = mounted(tmp_path / "study")
    reader, seen = Reader(app, codes(tmp_path / "study")["reader_01"]), set()
    names = []
    while name := reader.last["reading"]:
        names.append(name)
        start = len(reader.traffic)
        reader.volume(), reader.get("/readers/api/reading"), reader.answer("realism", 1)
        place = f'"position":{reader.last["position"]},'.encode()
        seen.add(b"".join(reader.traffic[start:]).replace(name.encode(), b"NAME").replace(place, b""))
        reader.go_on()
    assert len(seen) == 1 and len(set(names)) == 6 and {len(name) for name in names} == {32}


def test_a_repeat_has_another_name_than_its_first_reading(readers):
    names = [reader.last["reading"] for reader in readers]
    for reader in readers:
        while reader.last["reading"]:
            reader.go_on()
            names.append(reader.last["reading"])
    names = [name for name in names if name]
    assert len(names) == len(set(names)) == 24


def test_volumes_are_sent_uncompressed_behind_a_compressing_server(study):
    app = mounted(study)
    app.add_middleware(GZipMiddleware, minimum_size=10)
    reader = Reader(app, codes(study)["reader_01"])
    response = reader.get(
        f"/readers/{reader.last['volume']}", headers={"Accept-Encoding": "gzip", "Range": "bytes=0-9"}
    )
    sizes = {path.stat().st_size for path in (study / "volumes").iterdir()}
    assert response.status_code == 200 and {int(response.headers["content-length"])} == sizes
    assert response.headers["content-encoding"] == "identity"
    assert not {"accept-ranges", "etag", "last-modified", "content-disposition"} & set(response.headers)


def test_a_study_resumes_after_a_restart_of_browser_or_server(readers, study):
    one, _ = readers
    one.answer("realism", 3)
    one.go_on()
    one.answer("origin", 2)
    one.answer("pe", 5)
    one.answer("pe", None)
    before = one.last
    again = Reader(mounted(study), codes(study)["reader_01"].lower())  # another browser, another server
    assert again.last["position"] == 2 and again.last["answers"] == {"origin": 2}
    assert again.last["reading"] == before["reading"]  # so a delayed answer finds its reading


def test_a_reading_closed_in_another_window_is_not_changed(readers, study):
    one, _ = readers
    same = Reader(one.app, codes(study)["reader_01"])
    one.answer("realism", 3)
    one.go_on()
    late = same.answer("realism", 1)
    assert late.status_code == 409 and "another window" in late.json()["detail"]
    assert same.go_on().status_code == 409
    table = read_answers(read_study(study))
    assert table["realism"].tolist() == [3.0]


@pytest.mark.parametrize(
    "body",
    [
        {"question": "pe", "answer": 6}, {"question": "pe", "answer": 0}, {"question": "pe", "answer": "1"},
        {"question": "pe", "answer": True}, {"question": "pe", "answer": 1.5}, {"question": "item", "answer": 1},
        {"question": "pe", "answer": 10**30}, {"question": "pe"},
        {"question": "pe", "answer": 1, "reader": "reader_02"}, {"answer": 1},
        {"question": "pe", "answer": 1, "seconds": -1}, {"question": "pe", "answer": 1, "seconds": 1e300},
    ],
)  # fmt: skip
def test_an_answer_that_is_none_is_refused(readers, body):
    one, _ = readers
    assert one.act("answer", reading=one.last["reading"], **body).status_code == 422
    assert one.get("/readers/api/reading").json()["answers"] == {}


def test_volumes_that_differ_outside_of_their_voxels_are_refused_at_start(study, tmp_path):
    path = sorted((study / "volumes").iterdir())[2]
    whole = path.read_bytes()
    for spoilt in (whole + b"\0", whole[:100] + b"X" + whole[101:]):
        path.write_bytes(spoilt)
        with pytest.raises(UserError, match=f"{path.name}: its size or header differs"):
            readers_app(study)
    path.unlink()
    with pytest.raises(UserError, match="no such file"):
        readers_app(study)
    about = json.loads((study / "study.json").read_text())
    about["items"][0]["file"] = "volumes/../../secret.nii"
    (study / "study.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match="outside of volumes"):
        readers_app(study)
    with pytest.raises(UserError, match="action=create"):
        readers_app(tmp_path / "nothing")
