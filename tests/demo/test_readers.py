"""The readers' routes: blind, private, resumable; nothing that is sent tells an arm, and nothing else can be read."""

import json
import os
import re
import shutil
import sys

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from reader_files import QUESTIONS, cases, chest, make_small_study

pytest.importorskip("fastapi", reason="FastAPI is not installed, the readers' page is not tested")
from fastapi import FastAPI  # noqa: E402
from fastapi.testclient import TestClient  # noqa: E402
from starlette.middleware.gzip import GZipMiddleware  # noqa: E402

from dataset.errors import UserError  # noqa: E402
from dataset.intensity import Window  # noqa: E402
from demo.reader_access import FAILURES  # noqa: E402
from demo.readers import COOKIE, PAGE, PAGES, readers_app  # noqa: E402
from evaluation.readers.folder import MARK, read_answers, read_key, read_study  # noqa: E402
from evaluation.readers.making import make_study  # noqa: E402
from evaluation.readers.questions import parse_questions  # noqa: E402


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A study without its key beside it, and the key: the server has to do without."""
    folder = tmp_path_factory.mktemp("made")
    make_small_study(folder / "study", repeat_share=0.34)
    items = read_key(read_study(folder / "study"))
    (folder / "study-key").rename(folder / "elsewhere")
    return folder / "study", items


@pytest.fixture
def study(made, tmp_path):
    shutil.copytree(made[0], tmp_path / "study")
    return tmp_path / "study"


def mounted(study) -> FastAPI:
    app = FastAPI()
    app.mount("/readers", readers_app(study))
    return app


def codes(study) -> dict[str, str]:
    return dict(line.split() for line in (study / "answers" / "access_codes.txt").read_text().splitlines())


class Reader(TestClient):
    """A reader at his browser; `traffic` is all that came over the wire."""

    def __init__(self, app: FastAPI, code: str):
        super().__init__(app, base_url="http://127.0.0.1:7860")
        self.traffic: list[bytes] = []
        self.last = self.post("/readers/api/login", json={"code": code}).json()

    def request(self, method, url, **settings):
        response = super().request(method, url, **settings)
        head = "\n".join(f"{name}: {value}" for name, value in response.headers.items())
        self.traffic.append(f"{method} {url}\n{response.status_code}\n{head}\n".encode() + response.content)
        return response

    def act(self, path: str, **body):
        return self.post(f"/readers/api/{path}", json=body, headers={"X-Proof": self.last["proof"]})

    def answer(self, question: str, answer: int | None):
        return self.act("answer", reading=self.last["reading"], question=question, answer=answer)

    def volume(self, name: str | None = None):
        return self.get(f"/readers/volume/{name}.nii" if name else f"/readers/{self.last['volume']}")

    def go_on(self):
        response = self.act("next", reading=self.last["reading"])
        self.last = response.json()
        return response


@pytest.fixture
def app(study):
    return mounted(study)


@pytest.fixture
def readers(app, study):
    own = codes(study)
    return Reader(app, own["reader_01"]), Reader(app, own["reader_02"])


def test_a_reader_sees_his_order_and_the_analysis_reads_what_he_said(readers, made, study):
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


def test_the_whole_traffic_names_no_arm_case_patient_item_or_key(readers, made, study):
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
    told = text.replace(b'["real", "generated"]', b"").replace(b'["real","generated"]', b"")
    assert b"generated" not in told and b'"arm' not in told


def test_what_is_sent_for_two_arms_differs_in_the_voxels_alone(tmp_path):
    """With the same voxels in all arms nothing that is sent may differ but the reading's name and number."""
    make_study(
        cases(6), lambda arm, index: chest("real", 0), Window(-1000.0, 1000.0), tmp_path / "study",
        parse_questions(QUESTIONS), readers=1, repeat_share=0.0, seed=3,
    )  # fmt: skip
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


def test_volumes_are_sent_whole_and_unpacked_under_a_packing_server(study):
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


def test_nobody_reads_another_readers_volume_or_one_that_is_not_his_turn(readers, app, study):
    one, two = readers
    mine, first = one.last["reading"], one.last["reading"]
    assert two.volume(mine).status_code == 404 and one.volume(mine).status_code == 200
    one.go_on()
    assert one.volume(first).status_code == 404  # done: it is gone
    assert one.volume(read_study(study).orders["reader_01"][1]).status_code == 404  # an item's own code
    stranger = TestClient(app)
    for path in (f"volume/{mine}.nii", f"volume/{one.last['reading']}.nii", "api/reading"):
        assert stranger.get(f"/readers/{path}").status_code == 401
    assert two.answer("pe", 1).status_code == 200
    foreign = two.act("answer", reading=one.last["reading"], question="pe", answer=1)
    assert foreign.status_code == 409 and one.act("next", reading=two.last["reading"]).status_code == 409


@pytest.mark.parametrize(
    "path",
    [
        "../study.json", "..%2fstudy.json", "%2e%2e/study.json", "....//study.json", "..\\study.json", "/etc/passwd",
        "%2fetc%2fpasswd", "volume/../study.json", "volume/..%2f..%2fstudy.json.nii", "volume/%00.nii",
        "volume/..%2fanswers%2fanswers.sqlite", "answers/answers.sqlite", "answers.sqlite", "access_codes.txt",
        "study.json", "reader_01.csv", "../readers.py", "index.html", "volume/.nii", "api/../../study.json",
        "readers.js%00.txt", "..%c0%af..%c0%afetc/passwd", "docs", "openapi.json", "volumes/",
    ],
)  # fmt: skip
def test_no_route_leads_out(readers, path):
    response = readers[0].get(f"/readers/{path}")
    assert response.status_code in (404, 405) and b"key_sha256" not in response.content
    assert b"root:" not in response.content and b"SQLite" not in response.content


def test_the_key_is_not_needed_and_never_opened(study):
    """The key lies nowhere near, and even where it lies beside the study nothing opens it."""
    trap = study.with_name("study-key")
    trap.mkdir()
    (trap / "key.json").write_text("{}")
    opened, listening = [], True

    def listen(event: str, arguments: tuple) -> None:
        if listening and event == "open":
            opened.append(str(arguments[0]))

    sys.addaudithook(listen)  # stays until Python ends, but listens no longer than this test
    reader = Reader(mounted(study), codes(study)["reader_01"])
    while reader.last["reading"]:
        reader.volume()
        reader.go_on()
    listening = False
    assert any("study.json" in path for path in opened) and not any("key" in os.path.basename(p) for p in opened)
    assert not any("study-key" in path for path in opened)


def test_work_goes_on_after_the_browser_or_the_server_went_away(readers, study):
    one, _ = readers
    one.answer("realism", 3)
    one.go_on()
    one.answer("origin", 2)
    one.answer("pe", 5)
    one.answer("pe", None)
    before = one.last
    again = Reader(mounted(study), codes(study)["reader_01"].lower())  # another browser, another server
    assert again.last["position"] == 2 and again.last["answers"] == {"origin": 2}
    assert again.last["reading"] == before["reading"]  # so an answer that was waiting still finds its place


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


def test_the_cookie_cannot_be_read_or_sent_by_another_page(app, study):
    client = TestClient(app, base_url="http://127.0.0.1:7860")
    response = client.post("/readers/api/login", json={"code": codes(study)["reader_01"]})
    cookie = response.headers["set-cookie"]
    assert cookie.startswith(f"{COOKIE}=") and "Path=/readers/" in cookie
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and "Secure" not in cookie
    secure = TestClient(app, base_url="https://ct.example").post(
        "/readers/api/login", json={"code": codes(study)["reader_01"]}
    )
    assert "Secure" in secure.headers["set-cookie"]


def test_another_site_can_change_nothing(readers, study):
    one, _ = readers
    body = {"reading": one.last["reading"], "question": "pe", "answer": 1}
    proof = {"X-Proof": one.last["proof"]}
    for headers in (
        {},
        {"X-Proof": "wrong"},
        {"X-Proof": "é".encode()},
        proof | {"Origin": "http://evil.example"},
        proof | {"Origin": "null"},
        proof | {"Sec-Fetch-Site": "cross-site"},
        proof | {"Sec-Fetch-Site": "same-site"},
    ):
        assert one.post("/readers/api/answer", json=body, headers=headers).status_code == 403, headers
    form = one.post("/readers/api/answer", content=json.dumps(body), headers=proof | {"Content-Type": "text/plain"})
    assert form.status_code == 422
    code = {"code": codes(study)["reader_02"]}
    assert one.post("/readers/api/login", json=code, headers={"Origin": "http://evil.example"}).status_code == 403
    assert one.get("/readers/api/answer").status_code in (404, 405)
    one.last = one.get("/readers/api/reading").json()
    assert one.last["answers"] == {}
    good = proof | {"Origin": "http://127.0.0.1:7860", "Sec-Fetch-Site": "same-origin"}
    assert one.post("/readers/api/answer", json=body, headers=good).status_code == 200


def test_guessing_codes_is_slowed_and_a_right_code_waits_too(app, study):
    client = TestClient(app)
    for _ in range(FAILURES):
        assert client.post("/readers/api/login", json={"code": "ABCD-EFGH-JKMN"}).status_code == 401
    waiting = client.post("/readers/api/login", json={"code": codes(study)["reader_01"]})
    assert waiting.status_code == 429 and 0 < int(waiting.headers["retry-after"]) <= 61
    assert "set-cookie" not in waiting.headers
    other = TestClient(app, client=("10.0.0.7", 1234))
    assert other.post("/readers/api/login", json={"code": codes(study)["reader_01"]}).status_code == 200


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


def test_large_requests_are_refused_before_they_are_read(app):
    client = TestClient(app)
    assert client.post("/readers/api/login", json={"code": "A" * 10_000}).status_code == 413
    assert client.post("/readers/api/login", json={"code": "A" * 200}).status_code == 422
    assert (
        client.post("/readers/api/login", content=b"{", headers={"Content-Type": "application/json"}).status_code
        == 422
    )


def test_logging_out_ends_the_session(readers):
    one, _ = readers
    token = one.cookies[COOKIE]
    assert one.act("logout").status_code == 200
    assert one.get("/readers/api/reading", headers={"Cookie": f"{COOKIE}={token}"}).status_code == 401


def test_every_response_is_kept_from_caches_frames_and_other_sites(readers):
    one, _ = readers
    for path in (*PAGES, "api/reading", one.last["volume"], "nothing"):
        headers = one.get(f"/readers/{path}").headers
        assert headers["cache-control"].startswith("no-store"), path
        assert "default-src 'self'" in headers["content-security-policy"], path
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"


def test_the_page_asks_nothing_of_any_other_machine():
    for name in PAGES.values():
        text = (PAGE / name).read_text()
        assert not re.search(r"https?://|//[a-z]+\.", text), name


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
