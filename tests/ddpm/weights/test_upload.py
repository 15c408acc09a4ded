"""Nothing leaves for the hub before paths are removed, and nothing but the parts of the pipeline."""

import json

import pytest
import torch
from ddpm_parts import module

from common.errors import UserError
from ddpm import pipeline as pipelines
from ddpm.pipeline import XrayToCTPipeline
from ddpm.weights import hub

PRIVATE = "/home/somebody/secret/encoder.pt"


class Hub:
    """Records what is sent, and the files that the folder holds whenever the hub is called."""

    def __init__(self):
        self.calls, self.seen, self.folder, self.token = [], [], None, None

    def __call__(self, token=None):
        self.token = token
        return self

    def _look(self):
        files = [file for file in self.folder.rglob("*") if file.is_file() and file.suffix in (".json", ".md", ".txt")]
        self.seen.append("\n".join(file.read_text() for file in files))

    def create_repo(self, repo_id, **options):
        self.calls.append(("create", repo_id, options))
        self._look()
        return type("Repository", (), {"repo_id": repo_id})

    def upload_folder(self, **options):
        self.calls.append(("upload", options))
        self._look()
        return "https://hub/commit/1"


@pytest.fixture
def sent(monkeypatch, tmp_path):
    recorded = Hub()
    recorded.folder = tmp_path / "model"
    monkeypatch.setattr(hub, "HfApi", recorded)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    return recorded


@pytest.fixture(scope="module")
def pipeline():
    torch.manual_seed(0)
    made = module().pipeline()
    made.xray_encoder.register_to_config(source=PRIVATE)
    return made


def test_paths_are_removed_before_the_first_call(pipeline, sent):
    sent.folder.mkdir()
    (sent.folder / "notes.txt").write_text("private")
    pipeline.save_pretrained(sent.folder, push_to_hub=True, repo_id="me/model", private=True, token="t")
    assert [call[0] for call in sent.calls] == ["create", "upload"] and sent.token == "t"
    assert sent.calls[0][1:] == ("me/model", {"exist_ok": True, "private": True})
    assert all("secret" not in text and str(sent.folder.parent) not in text for text in sent.seen)
    patterns = sent.calls[1][1]["allow_patterns"]
    assert "model_index.json" in patterns and "denoiser/*" in patterns and "notes.txt" not in patterns
    config = sent.folder / "xray_encoder" / "config.json"
    content = json.loads(config.read_text())
    assert content.pop("source") == "encoder.pt"
    config.write_text(json.dumps(content))  # the small encoder of this test takes no source
    again = XrayToCTPipeline.from_pretrained(sent.folder)  # its parts know the folder now
    again.save_pretrained(sent.folder, push_to_hub=True, repo_id="me/model")
    assert str(sent.folder.parent) not in sent.seen[-1]


def test_nothing_is_sent_if_the_folder_could_not_be_cleaned(pipeline, sent, monkeypatch):
    def fail(folder):
        raise UserError("disk full")

    monkeypatch.setattr(pipelines, "make_portable", fail)
    with pytest.raises(UserError, match="disk full"):
        pipeline.save_pretrained(sent.folder, push_to_hub=True, repo_id="me/model")
    assert not sent.calls


def test_without_the_option_nothing_is_sent(pipeline, sent):
    pipeline.save_pretrained(sent.folder)
    assert not sent.calls and "secret" not in (sent.folder / "xray_encoder" / "config.json").read_text()
    assert json.loads((sent.folder / "model_index.json").read_text())["_class_name"] == "XrayToCTPipeline"


def test_a_refusal_and_a_wrong_name_are_one_line(pipeline, sent, monkeypatch):
    def refuse(self, repo_id, **options):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(Hub, "create_repo", refuse)
    with pytest.raises(UserError, match="me/model: not uploaded .no route to host.; log in with hf auth login"):
        pipeline.save_pretrained(sent.folder, push_to_hub=True, repo_id="me/model")
    with pytest.raises(UserError, match="no name of a repository"):
        pipeline.save_pretrained(sent.folder, push_to_hub=True, repo_id="a/b/c")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE"):
        pipeline.save_pretrained(sent.folder, push_to_hub=True, repo_id="me/model")
