"""The guard: authentication, hosts, origins, sizes, and no private file through any route."""

import asyncio
import base64
import os
from urllib.parse import quote, unquote

import pytest
from demo_parts import last, save_film, small_service
from fastapi.testclient import TestClient

from demo.service.messages import REAL_FILES, GenerationRequest

HERE, PASSWORD = "http://127.0.0.1:7860", "correct horse"


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    made = small_service(tmp_path_factory.mktemp("demo") / "run")
    yield made
    made.close()


@pytest.fixture(scope="module")
def clients(service, tmp_path_factory):
    """Clients of an app without and of one with a password, both without layout and viewer."""
    from demo.page import layout
    from demo.server import app_factory

    folder = tmp_path_factory.mktemp("js")
    (folder / "viewer.js").write_text("export {}")
    (folder / "secret.js").write_text("secret")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "build_page", _bare_page)
        patch.setattr(layout, "page_options", dict)
        patch.setattr(app_factory, "viewer_files", lambda: {"viewer.js": folder / "viewer.js"})
        return [TestClient(app_factory.build_app(service, word, word is None), HERE) for word in (None, PASSWORD)]


@pytest.fixture(scope="module")
def client(clients):
    return clients[0]


def _bare_page(service):
    import gradio as gr

    with gr.Blocks(analytics_enabled=False) as page:
        gr.File()
    return page


def raw_get(app, target: str) -> tuple[int, bytes]:
    """A request with the unchanged path, which a client would normalise."""
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": unquote(target), "raw_path": target.encode(), "root_path": "",
             "query_string": b"", "headers": [(b"host", b"127.0.0.1:7860")], "scheme": "http", "http_version": "1.1",
             "client": ("127.0.0.1", 9), "server": ("127.0.0.1", 7860)}  # fmt: skip
    asyncio.run(app(scope, receive, send))
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)


def test_the_files_of_the_page_are_served(client, result):
    assert client.get("/").status_code == 200 and client.get("/gradio_api/info").status_code == 200
    module = client.get("/viewer/viewer.js").headers
    assert module["content-type"].startswith("text/javascript") and module["cache-control"] == "no-cache"
    assert {"given.png", "xray.png", "volume.nii.gz", "dicom.zip"} <= set(result.urls)
    for name, url in result.urls.items():
        answer = client.get(url)
        made = result.files["volume.nii.gz"].parent / name  # DICOM series and animation are made by this request
        assert answer.status_code == 200 and answer.content == made.read_bytes()
        assert answer.headers["cache-control"] == "no-store"
        shown = name if name in REAL_FILES else f"synthetic_{name}"
        assert answer.headers["content-disposition"].endswith(f'filename="{shown}"')


ELSEWHERE = ["/etc/passwd", "etc/passwd", "../../../../etc/passwd", "..", ".", "", "%2e%2e/%2e%2e/etc/passwd",
             "..%2f..%2f..%2fetc%2fpasswd", "%252e%252e%252fetc%252fpasswd", "..\\..\\etc\\passwd", "....//etc/passwd",
             "/proc/self/environ", "secret.js", "../secret.js", "viewer.js/../secret.js", "viewer.js%00.png",
             "http://127.0.0.1:1/", "file:///etc/passwd", "//etc/passwd", "~/.bashrc"]  # fmt: skip
ROUTES = ["/result/TOKEN/", "/result/", "/viewer/", "/gradio_api/file=", "/gradio_api/file/", "/file=", "/static/",
          "/assets/", "/svelte/", "/custom_component/", "/gradio_api/custom_component/", "/gradio_api/proxy=",
          "/proxy=", "/readers/", "/", "/gradio_api/stream/", "/theme.css/"]  # fmt: skip


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    return save_film(tmp_path_factory.mktemp("film") / "x.png")


@pytest.fixture(scope="module")
def result(service, film):
    return last(service.generate(film, GenerationRequest()))


@pytest.mark.parametrize("route", ROUTES)
def test_no_route_leads_out(client, result, film, route):
    """Every file route with every path outside; only Gradio's bundle under /assets and /static may answer."""
    own = result.files["settings.json"]
    assert own.is_file()
    mine = [str(own), os.path.relpath(own), str(film)]
    for target in (*ELSEWHERE, *mine, *(quote(path, safe="") for path in mine)):
        asked = route.replace("TOKEN", result.token) + target
        status, body = raw_get(client.app, asked)
        assert status in (404, 403, 400, 307) or asked == "/", (asked, status)  # 307: to the same without its slash
        assert not any(word in body for word in (b"root:", b"noise_id", b"secret", b"PATH=")), asked


def test_gradios_file_route_reads_uploads_only(client, service, tmp_path):
    upload = service.store.uploads / "hash" / "x.png"
    upload.parent.mkdir(exist_ok=True)
    upload.write_bytes(save_film(tmp_path / "x.png").read_bytes())
    (upload.parent / "out.png").symlink_to("/etc/passwd")
    assert client.get(f"/gradio_api/file={upload}").content == upload.read_bytes()
    assert client.get(f"/gradio_api/file={upload.parent}/out.png").status_code == 404
    assert client.get(f"/gradio_api/file={upload.parent}").status_code == 404


def test_foreign_host_names_are_refused(client):
    for host in ("evil.example", "127.0.0.1.evil.example", "evil.example:7860", "", "127.0.0.1@evil.example"):
        assert client.get("/", headers={"Host": host}).status_code == 421, host
    for host in ("localhost:7860", "127.0.0.1", "[::1]:7860"):
        assert client.get("/", headers={"Host": host}).status_code == 200, host


def test_other_sites_cannot_post(client):
    own = client.post("/gradio_api/upload", files={"files": b"x"}, headers={"Origin": HERE})
    assert own.status_code == 200
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1"):
        answer = client.post("/gradio_api/upload", files={"files": b"x"}, headers={"Origin": origin})
        assert answer.status_code == 403, origin


def test_every_route_needs_the_password(clients):
    client = clients[1]
    for path in ("/", "/gradio_api/info", "/viewer/viewer.js", "/config", "/result/a/volume.nii.gz"):
        answer = client.get(path)
        assert answer.status_code == 401 and "Basic" in answer.headers["www-authenticate"]
    basic = base64.b64encode(f"anybody:{PASSWORD}".encode()).decode()
    for right in (f"Basic {basic}", f"Bearer {PASSWORD}"):
        assert client.get("/", headers={"Authorization": right}).status_code == 200
    for wrong in (f"Basic {basic[:-4]}", "Bearer correct", f"Bearer {PASSWORD}x", "Basic ???", f"Digest {PASSWORD}"):
        assert client.get("/", headers={"Authorization": wrong}).status_code == 401, wrong
    answer = client.get("/", headers={"Authorization": f"Bearer {PASSWORD}", "Host": "ward.example"})
    assert answer.status_code == 200


def test_large_bodies_are_refused_before_storage(client, service, tmp_path):
    before = sum(1 for _ in service.store.uploads.rglob("*"))
    most = max(service.limits.xray_bytes, service.limits.ct_bytes)
    declared = client.post("/gradio_api/upload", headers={"Content-Length": str(most * 2)}, content=b"x")
    assert declared.status_code == 413
    assert client.post("/gradio_api/queue/join", content=b"x" * (5 << 20)).status_code == 413

    def endless():
        for _ in range(6):
            yield b"x" * (1 << 20)

    assert client.post("/gradio_api/queue/join", content=endless()).status_code in (400, 413)  # without a length
    assert sum(1 for _ in service.store.uploads.rglob("*")) == before


def test_unneeded_routes_are_closed(client):
    for path in ("/monitoring", "/monitoring/summary", "/gradio_api/runs", "/gradio_api/vibe-code/", "/docs",
                 "/openapi.json", "/redoc", "/gradio_api/dev/reload", "/login", "/gradio_api/deep_link"):  # fmt: skip
        assert client.get(path).status_code == 404, path
    assert client.request("PUT", "/").status_code == 405
    assert client.post("/gradio_api/run-history/connect").status_code == 404


def test_a_page_may_load_from_this_server_only(client):
    policy = client.get("/").headers["content-security-policy"]
    assert "default-src 'self'" in policy and "http" not in policy and "*" not in policy
    assert client.get("/").headers["x-content-type-options"] == "nosniff"
    assert client.get("/", headers={"Origin": "http://evil.example"}).headers.get("access-control-allow-origin") in (
        None,
        "",
    )


def test_gradio_downloads_nothing(client):
    import gradio.processing_utils as utils

    for fetch in (utils.async_ssrf_protected_download, utils.ssrf_protected_download, utils.save_url_to_cache):
        with pytest.raises(Exception, match="fetches nothing"):
            fetch("http://example.com/x.png", "/tmp")
