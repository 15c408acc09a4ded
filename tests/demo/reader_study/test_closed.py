"""Privacy of the readers' routes: sessions, paths, codes, cross-site requests."""

import json
import os
import re
import sys

import pytest

pytest.importorskip("fastapi", reason="FastAPI is not installed, the readers' page is not tested")
from fastapi.testclient import TestClient  # noqa: E402
from reader_browser import Reader, app, codes, made, mounted, readers, study  # noqa: F401 (fixtures)

from demo.reader_study.access import FAILURES  # noqa: E402
from demo.reader_study.routes import COOKIE, PAGE, PAGES  # noqa: E402
from evaluation.readers.study_folder import read_study  # noqa: E402


def test_a_reader_gets_only_the_current_volume(readers, app, study):
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


def test_the_key_is_never_opened(study):
    """Not even a key beside the study."""
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


def test_other_pages_cannot_read_or_send_the_cookie(app, study):
    client = TestClient(app, base_url="http://127.0.0.1:7860")
    response = client.post("/readers/api/login", json={"code": codes(study)["reader_01"]})
    cookie = response.headers["set-cookie"]
    assert cookie.startswith(f"{COOKIE}=") and "Path=/readers/" in cookie
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and "Secure" not in cookie
    secure = TestClient(app, base_url="https://ct.example").post(
        "/readers/api/login", json={"code": codes(study)["reader_01"]}
    )
    assert "Secure" in secure.headers["set-cookie"]


def test_other_sites_cannot_change_anything(readers, study):
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


def test_failed_logins_block_an_address(app, study):
    client = TestClient(app)
    for _ in range(FAILURES):
        assert client.post("/readers/api/login", json={"code": "ABCD-EFGH-JKMN"}).status_code == 401
    waiting = client.post("/readers/api/login", json={"code": codes(study)["reader_01"]})
    assert waiting.status_code == 429 and 0 < int(waiting.headers["retry-after"]) <= 61
    assert "set-cookie" not in waiting.headers
    other = TestClient(app, client=("10.0.0.7", 1234))
    assert other.post("/readers/api/login", json={"code": codes(study)["reader_01"]}).status_code == 200


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
