"""The way from the index to a prepared set, with a client in place of idc-index and the network."""

import sys
from types import SimpleNamespace

import pandas as pd
import pytest
from omegaconf import OmegaConf
from prepare_runs import OTHER, write
from radiograph_files import save_radiograph

from common.errors import UserError
from dataset.idc import download as idc_download
from dataset.idc import index as idc_index
from dataset.idc.download import download, prepare_downloaded
from dataset.idc.index import COLUMNS, read_index, select_pairs
from dataset.manifest.table import read_manifest
from dataset.preparation.options import prepare_set

CT, FILM = "1.2.70.1", "1.2.71.1"
ROWS = [
    ("A", "1.2.70", CT, "CT", "CT CHEST PULMONARY ANGIO", 60),
    ("A", "1.2.71", FILM, "CR", "CHEST AP PORT", 1),
    ("B", "1.2.72", "1.2.72.1", "CT", "CT CHEST", 60),
]


@pytest.fixture
def index(tmp_path):
    """The rows of the index, and its file."""
    records = [
        ["covid_19_ar", patient, study, series, kind, "2020-03-02", text, "", "CHEST", images, 1.0, "CC BY 4.0",
         "10.1/x", "s3://x"]
        for patient, study, series, kind, text, images in ROWS
    ]  # fmt: skip
    return pd.DataFrame(records, columns=COLUMNS)


class Client:
    """Writes the files of series as idc-index lays them down; `asked` are its calls."""

    asked: list[list[str]] = []
    fails: Exception | None = None

    def download_dicom_series(self, uids, downloadDir):  # noqa: N803 (of idc-index)
        from pathlib import Path

        if self.fails is not None:
            raise self.fails
        self.asked.append(uids)
        root = Path(downloadDir) / "covid_19_ar" / "A"
        for uid in uids:
            place = root / uid.rpartition(".")[0] / f"series_{uid}"
            if uid == CT:
                write(place, OTHER, patient="A", study_uid="1.2.70", series_uid=uid)
            else:
                place.mkdir(parents=True)
                save_radiograph(place / "1.dcm", patient="A", view="AP")


@pytest.fixture
def client(monkeypatch):
    monkeypatch.setattr(Client, "asked", [])
    monkeypatch.setattr(Client, "fails", None)
    monkeypatch.setitem(sys.modules, "idc_index", SimpleNamespace(IDCClient=Client))
    return Client


def test_what_is_selected_is_downloaded_and_prepared(index, client, tmp_path, monkeypatch):
    quick = {"workers": 0, "crop_box": "whole", "spacing": None}  # in this process, and without a search for lungs
    monkeypatch.setattr(idc_download, "prepare_set", lambda cfg: prepare_set(OmegaConf.merge(cfg, quick)))
    chosen = select_pairs(index, "chest", 1)
    download(chosen, tmp_path / "out" / "dicom")
    assert client.asked == [[FILM, CT]] or client.asked == [[CT, FILM]]
    manifest = read_manifest(prepare_downloaded(tmp_path / "out", 1, "chest"))
    assert len(manifest) == 1 and manifest["xray_source"][0] == "film" and manifest["view"][0] == "AP"
    assert (tmp_path / "out" / "set" / manifest["ct"][0]).is_file()


def test_a_failed_download_is_one_line_and_says_that_the_list_is_complete(index, client, tmp_path, monkeypatch):
    monkeypatch.setattr(client, "fails", ConnectionError("no route\nto host"))
    with pytest.raises(
        UserError, match=r"^not downloaded \(no route to host\); the list is complete: download"
    ) as info:
        download(select_pairs(index, "ctpa", None), tmp_path / "dicom")
    assert "\n" not in str(info.value)


def test_the_command_writes_the_list_before_it_downloads(index, client, tmp_path, monkeypatch):
    from hydra import compose, initialize_config_dir

    from common.cli import CONFIG

    monkeypatch.setattr(idc_index, "read_index", lambda path, collection: index)
    monkeypatch.setattr(client, "fails", OSError("offline"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    from dataset import public

    with initialize_config_dir(str(CONFIG), version_base="1.3"):
        cfg = compose("public", [f"output={tmp_path}/out", "download=true", "collection=covid_19_ar"])
    with pytest.raises(UserError, match=r"not downloaded \(offline\)"):
        public.main.__wrapped__(cfg)
    written = pd.read_csv(tmp_path / "out" / "series.csv")
    assert set(written["SeriesInstanceUID"]) == {CT, FILM} and set(written["license_short_name"]) == {"CC BY 4.0"}
    cfg.output = None
    with pytest.raises(UserError, match="output: missing"):
        public.main.__wrapped__(cfg)


def test_an_unknown_collection_is_refused_before_the_index_is_read():
    with pytest.raises(UserError, match="collection=nlst: choose"):
        read_index("none.parquet", "nlst")


@pytest.mark.parametrize(("days", "hours"), [(0, 24), (1, 48), (2.5, 84), (None, None)])
def test_every_selected_pair_is_within_the_hours_of_the_preparation(tmp_path, monkeypatch, days, hours):
    """Dates one day apart are up to 48 hours apart."""
    monkeypatch.setattr(idc_download, "prepare_set", lambda cfg: (None, cfg.max_hours))
    assert prepare_downloaded(tmp_path, days, "chest") == hours
