"""A test client of a reader that records its traffic, and a study with its app."""

import shutil

import pytest
from reader_files import make_small_study

pytest.importorskip("fastapi", reason="FastAPI is not installed, the readers' page is not tested")
from fastapi import FastAPI  # noqa: E402
from fastapi.testclient import TestClient  # noqa: E402

from demo.reader_study.routes import readers_app  # noqa: E402
from evaluation.readers.study_folder import read_key, read_study  # noqa: E402


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A study without its key, and the items of the key."""
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
    """A reader's client; `traffic` holds all responses."""

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
