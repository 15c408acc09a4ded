"""Attacks on the routes of the application: none reads or copies a file of this machine."""

import json
import os
import socket
from urllib.parse import quote, urlsplit

import pytest

pytest.importorskip("gradio", reason="Gradio is not installed, the web demo is not tested")
import httpx  # noqa: E402
from demo_parts import save_film, served, small_service  # noqa: E402
from reader_files import make_small_study  # noqa: E402

from demo.server.app_factory import NIIVUE  # noqa: E402

pytestmark = pytest.mark.skipif(not NIIVUE.is_file(), reason="the viewer is not installed (make web)")

FILE = {"_type": "gradio.FileData"}
SECRET = b"a secret of this machine"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Private files beside the run folder `run`: an X-ray, a text, a study with its answers."""
    place = tmp_path_factory.mktemp("machine")
    save_film(place / "patient.png")
    (place / "secret.txt").write_bytes(SECRET)
    make_small_study(place / "study", readers=1)
    return place


@pytest.fixture(scope="module")
def service(place):
    service = small_service(place / "run")
    yield service
    service.close()


@pytest.fixture(scope="module")
def address(place, service):
    from demo.server.app_factory import build_app

    with served(build_app(service, study=place / "study")) as address:
        yield address


@pytest.fixture
def client(address):
    with httpx.Client(base_url=address, timeout=60) as client:
        yield client


def call(client: httpx.Client, name: str, data: list) -> str:
    """The response of an API event as text."""
    made = client.post(f"/gradio_api/call/{name}", json={"data": data})
    return made.text if made.status_code != 200 else _until(
        client, f"/gradio_api/call/{name}/{made.json()['event_id']}", ("event: complete", "event: error")
    )  # fmt: skip


def press(client: httpx.Client, event: int, data: list) -> str:
    """The response of any event of the page as text."""
    asked = {"data": data, "fn_index": event, "session_hash": f"attack{event}"}
    made = client.post("/gradio_api/queue/join", json=asked)
    if made.status_code != 200:
        return made.text
    return _until(client, f"/gradio_api/queue/data?session_hash=attack{event}", ("process_completed",))


def _until(client: httpx.Client, path: str, ends: tuple[str, ...]) -> str:
    text = ""
    with client.stream("GET", path) as stream:
        for line in stream.iter_lines():
            text += line + "\n"
            if any(end in text for end in ends) and line.startswith("data"):
                break
    return text


def contents(service) -> list[bytes]:
    return [path.read_bytes() for path in service.store.folder.rglob("*") if path.is_file()]


def spellings(path) -> list[dict]:
    text = str(path)
    return [{"path": text, "meta": FILE}, {"path": text, "meta": FILE, "url": f"file://{text}"},
            {"path": os.path.join("/proc/self/root", text[1:]), "meta": FILE}, {"path": text}]  # fmt: skip


def test_no_event_takes_a_file_that_was_not_uploaded(client, service, place):
    film = (place / "patient.png").read_bytes()
    events = json.loads(client.get("/config").text)["dependencies"]
    for file in spellings(place / "patient.png"):
        answer = call(client, "look", [file, "", ""])
        assert "event: complete" not in answer, answer
        answer = call(client, "generate", [file, "", 0, -1.0, 0, 1, "", "", None])
        assert '"result"' not in answer, answer
        for event in events:
            count = len(event["inputs"])
            for at in range(min(count, 4)):  # the file, or something that ought to be a word
                press(client, event["id"], [file if number == at else None for number in range(count)])
    assert film not in contents(service), "a file of this machine was copied into the run's folder"


def test_no_event_returns_a_file(client, service, place):
    """Nor the path of a copy in an error message."""
    for file in spellings(place / "secret.txt"):
        for data in ([None, file, "", ""], [file, None, "", ""], [None, None, file, ""]):
            for event in (0, 1, 2):
                answer = press(client, event, data)
                for path in answer.split("'") + answer.split('"'):
                    if path.startswith("/gradio_api/file="):
                        assert SECRET not in client.get(path).content
    assert not any(SECRET in content for content in contents(service))


@pytest.mark.parametrize("device", ["/dev/zero", "/proc/self/environ", "/proc/self/mem", "/"])
def test_devices_and_folders_are_refused(client, device):
    assert "event: complete" not in call(client, "look", [{"path": device, "meta": FILE}, "", ""])


def raw(address: str, path: str) -> bytes:
    """A request with the unchanged path, which clients would normalise."""
    parts = urlsplit(address)
    with socket.create_connection((parts.hostname, parts.port), timeout=20) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while part := connection.recv(65536):
            answer += part
    return answer


def test_no_path_leads_out_of_the_run_folder(address, service, place):
    uploads = service.store.uploads
    (uploads / "x").mkdir(exist_ok=True)
    (uploads / "x" / "link").unlink(missing_ok=True)
    (uploads / "x" / "link").symlink_to(place)
    answers = place / "study" / "answers"
    secrets = [
        place / "secret.txt",
        answers / "access_codes.txt",
        answers / "answers.sqlite",
        place / "study" / "study.json",
    ]
    before = (
        "",
        "file=",
        "static/",
        "assets/",
        "svelte/",
        "viewer/",
        "result/",
        "result/x/",
        "readers/",
        "readers/volume/",
    )
    before += "readers/volume/", "gradio_api/file=", "gradio_api/file/", "gradio_api/stream/", "gradio_api/proxy="
    up = "/".join([".."] * 12)
    for secret in secrets:
        inside, name = secret.read_bytes()[:20], str(secret)
        asked = [
            name, f"/{name}", f"{up}{name}", f"..{name}", name.replace("/", "%2f"), name.replace("/", "%252f"),
            f"{up}{name}".replace(".", "%2e"), f"{up}{name}".replace("/", "%2f"), f"....//....//..../{name}",
            f"{uploads}/x/{up}{name}", f"{uploads}/x/{up.replace('.', '%2e')}{name}", f"{name}%00.png",
            f"{uploads}/x/link/{secret.relative_to(place)}", f"..\\..\\..{name}", f"file://{name}",
            f"..%c0%af..{name}",
        ]  # fmt: skip
        for prefix in before:
            for path in asked:
                answer = raw(address, f"/{prefix}{path}")
                status = answer.split(b" ", 2)[1]
                assert status.startswith(b"4") and inside not in answer, (status, prefix + path)


def test_the_readers_page_is_found_without_slash(client):
    found = client.get("/readers", follow_redirects=True)
    assert found.status_code == 200 and found.url.path == "/readers/"


def test_a_result_is_found_by_its_exact_name_only(client, service):
    with service.store.held() as (token, folder):
        (folder / "settings.json").write_text("{}")
        (folder / "input.dcm").write_text("of a patient")
        assert client.get(f"/result/{token}/settings.json").status_code == 200
        for path in (f"{token}/input.dcm", f"{token[:-1]}/settings.json", f"{token}/SETTINGS.JSON", f"{token}/"):
            assert client.get(f"/result/{path}").status_code == 404, path
        for path in (folder / "settings.json", folder / "input.dcm"):
            assert client.get(f"/gradio_api/file={quote(str(path))}").status_code in (403, 404)


def test_names_of_uploads_stay_within_their_folder(client, service, place):
    before = {path for path in place.rglob("*") if service.store.uploads not in path.parents}
    film = (place / "patient.png").read_bytes() + b"again"
    for name in (
        "../../../evil.png",
        "/etc/evil",
        "..\\..\\evil.png",
        "a/../../b.png",
        "..",
        "%2e%2e%2fevil",
        "a" * 300,
    ):
        answer = client.post("/gradio_api/upload", files={"files": (name, film)})
        assert answer.status_code in (200, 400), name
    after = {path for path in place.rglob("*") if service.store.uploads not in path.parents}
    assert after == before
