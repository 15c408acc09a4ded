"""The folder of a run: files by token and name only, deletion."""

import os
import time

import pytest

from demo.service.result_store import Store


@pytest.fixture
def store(tmp_path):
    made = Store(tmp_path / "run", keep_seconds=1000.0)
    yield made
    made.close()


def made(store, name="volume.nii.gz"):
    with store.held() as (token, place):
        (place / name).write_bytes(b"x")
        (place / "upload.png").write_bytes(b"patient")
    return token


def test_a_result_is_found_by_its_token_and_name(store):
    token = made(store)
    assert store.find(token, "volume.nii.gz").read_bytes() == b"x"
    assert len(token) >= 32 and made(store) != token


@pytest.mark.parametrize(
    "name", ["upload.png", "../uploads", "..", "", ".", "/etc/passwd", "volume.nii.gz/", "spread.nii.gz", "a\0b"]
)
def test_other_names_and_tokens_find_nothing(store, name):
    token = made(store)
    assert store.find(token, name) is None
    for strange in ("", ".", "..", token[:-1], f"{token}/", f"../results/{token}", "/etc", f"{token}\0"):
        assert store.find(strange, "volume.nii.gz") is None


def test_links_are_not_followed(store, tmp_path):
    (tmp_path / "secret").write_text("s")
    with store.held() as (token, place):
        (place / "volume.nii.gz").symlink_to(tmp_path / "secret")
    assert store.find(token, "volume.nii.gz") is None


def test_old_entries_are_deleted_and_open_ones_stay(store):
    old, upload = made(store), store.uploads / "hash" / "chest.png"
    upload.parent.mkdir()
    upload.write_bytes(b"patient")
    with store.held() as (token, place):
        later = time.time() + 1001
        assert store.sweep(time.time() + 900) == 0
        assert store.sweep(later) == 2
        assert place.is_dir() and token in os.listdir(store.results)
    assert store.find(old, "volume.nii.gz") is None and not upload.exists()
    assert store.sweep(later) == 1 and os.listdir(store.results) == []


def test_the_store_deletes_old_entries_on_its_own(tmp_path):
    store = Store(tmp_path / "run", keep_seconds=0.2)
    made(store)
    end = time.monotonic() + 60
    while os.listdir(store.results):
        assert time.monotonic() < end
        time.sleep(0.05)
    store.close()


def test_an_error_deletes_the_folder(store):
    with pytest.raises(ValueError), store.held() as (_, place):
        (place / "upload.png").write_bytes(b"patient")
        raise ValueError
    assert os.listdir(store.results) == []


def test_close_deletes_everything(store):
    made(store)
    store.close()
    assert not store.folder.exists()
