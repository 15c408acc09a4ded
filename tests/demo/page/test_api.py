"""Programs: `gradio_client` against the real server, and the same volume as page and command line."""

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.request import urlopen, urlretrieve

import nibabel as nib
import numpy as np
import pytest
from demo_parts import last, save_film, served, small_service
from gradio_client import Client, handle_file

from demo.server.app_factory import NIIVUE
from demo.service.messages import GenerationRequest

LISTENER = """
import sys, time
from gradio_client import Client, handle_file
job = Client(sys.argv[1], verbose=False).submit(handle_file(sys.argv[2]), steps=1000, api_name="/generate")
while not job.outputs():
    time.sleep(0.1)
print("started", flush=True)
time.sleep(600)
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not NIIVUE.is_file(), reason="the viewer is not installed (make web)"),
]


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    made = small_service(tmp_path_factory.mktemp("demo") / "run", max_queue=9)
    yield made
    made.close()


@pytest.fixture(scope="module")
def address(service):
    from demo.server.app_factory import build_app

    with served(build_app(service)) as found:
        yield found


@pytest.fixture(scope="module")
def client(address):
    return Client(address, verbose=False)


def test_a_client_gets_the_volume_of_the_page(address, service, tmp_path):
    film = save_film(tmp_path / "chest.png")
    # from gradio_client import Client, handle_file, and urlretrieve of urllib.request
    client = Client(address, verbose=False)
    result = client.predict(handle_file(str(film)), seed=4, api_name="/generate")["result"]
    urlretrieve(address + result["urls"]["volume.nii.gz"], tmp_path / "ct.nii.gz")

    page = last(service.generate(film, GenerationRequest(seed=4)))
    own, theirs = nib.load(tmp_path / "ct.nii.gz"), nib.load(page.files["volume.nii.gz"])
    np.testing.assert_array_equal(own.get_fdata(), theirs.get_fdata())
    assert result["mark"] == "synthetic, not for diagnosis" and "files" not in result
    assert client.predict(handle_file(str(film)), api_name="/look")["orientation"].startswith("PA, assumed")


def test_the_client_gets_progress(client, tmp_path):
    job = client.submit(handle_file(str(save_film(tmp_path / "a.png"))), steps=5, api_name="/generate")
    job.result(timeout=120)
    news = [item["progress"] for item in job.outputs() if "progress" in item]
    assert news and all(item["steps"] == 5 and "slices" not in item for item in news)


def test_eight_parallel_clients_get_their_own_results(address, service, tmp_path):
    films = [save_film(tmp_path / f"{n}.png", n) for n in range(8)]

    def ask(number: int) -> str:
        own = Client(address, verbose=False)
        asked = handle_file(str(films[number])), "", 1, -1.0, number
        return own.predict(*asked, api_name="/generate")["result"]["urls"]["volume.nii.gz"]

    with ThreadPoolExecutor(8) as pool:
        urls = list(pool.map(ask, range(8)))
    assert len(set(urls)) == 8
    for number, url in enumerate(urls):
        expected = last(service.generate(films[number], GenerationRequest(seed=number, steps=1))).files[
            "volume.nii.gz"
        ]
        with urlopen(address + url) as answer:
            assert answer.read() == expected.read_bytes()


def test_cancel_frees_the_worker(client, service, tmp_path):
    film = handle_file(str(save_film(tmp_path / "a.png")))
    job = client.submit(film, steps=1000, api_name="/generate")
    wait(lambda: any(item.get("progress", {}).get("step", 0) for item in job.outputs()))
    job.cancel()
    wait(lambda: service.queue.length == 0)
    assert client.predict(film, steps=1, api_name="/generate")["result"]


def test_a_killed_client_frees_the_worker(address, service, tmp_path):
    film = str(save_film(tmp_path / "a.png"))
    own = subprocess.Popen([sys.executable, "-c", LISTENER, address, film], stdout=subprocess.PIPE, text=True)
    assert own.stdout.readline() == "started\n" and service.queue.length == 1
    own.kill()  # closes its connections without a message
    own.wait()
    wait(lambda: service.queue.length == 0, 20)


def test_errors_arrive_as_one_line(client, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"nonsense")
    film = handle_file(str(save_film(tmp_path / "a.png")))
    for asked, options, line in (
        (handle_file(str(tmp_path / "bad.png")), {}, "the X-ray: the content is not a PNG"),
        (film, {"samples": 99}, "samples=99"),
        (film, {"sampler": "magic"}, "sampler=magic"),
        (film, {"seed": -1}, "seed=-1"),
        ({"path": "/etc/passwd"}, {}, "upload it first"),
        ({"path": "http://127.0.0.1:1/x.png"}, {}, "upload it first"),
        ({"path": ["a"]}, {}, "upload it first"),
    ):
        with pytest.raises(Exception, match=line):
            client.predict(asked, **options, api_name="/generate")


def test_the_api_has_two_endpoints(client):
    assert set(client.view_api(return_format="dict")["named_endpoints"]) == {"/look", "/generate"}


def wait(condition, seconds: float = 60.0) -> None:
    end, pause = time.monotonic() + seconds, threading.Event()
    while not condition():
        assert time.monotonic() < end
        pause.wait(0.1)
