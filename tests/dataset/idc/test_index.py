"""Public pairs are of one patient and near in time; the list holds licence, DOI and size; counts of the real index."""

from importlib.util import find_spec

import pandas as pd
import pytest

from common.errors import UserError
from dataset.idc.download import download
from dataset.idc.index import COLUMNS, read_index, select_pairs

ROWS = [  # patient, modality, date, study, body part, images
    ("A", "CT", "2020-03-02", "CT CHEST PULMONARY ANGIO WITH IV CON", "", 300),
    ("A", "CT", "2020-03-02", "CT CHEST PULMONARY ANGIO WITH IV CON", "", 2),
    ("A", "CR", "2020-03-01", "CHEST AP PORT", "CHEST", 1),
    ("A", "CR", "2020-03-09", "CHEST AP PORT", "CHEST", 1),
    ("B", "CT", "2020-03-02", "CT CHEST WO IV CONT", "CHEST", 90),
    ("B", "DX", "2020-03-04", "CHEST PA", "CHEST", 1),
    ("C", "CT", "2020-03-02", "CT ABD AND PELVIS", "ABDOMEN", 90),
    ("C", "CR", "2020-03-02", "CHEST AP PORT", "CHEST", 1),
    ("D", "CT", "2020-03-02", "CT CHEST WO IV CONT", "CHEST", 90),
    ("D", "CR", "2020-03-02", "ABDOMEN SUPINE", "ABDOMEN", 1),
    ("E", "CR", "2020-03-02", "CHEST AP PORT", "CHEST", 1),
]


@pytest.fixture
def index():
    records = [
        dict(zip(COLUMNS, ["covid_19_ar", patient, f"1.{n}", f"1.{n}.1", modality, date, study, "", part, images, 50.0,
                           "CC BY 4.0", "10.1/x", "s3://x"], strict=True))
        for n, (patient, modality, date, study, part, images) in enumerate(ROWS)
    ]  # fmt: skip
    return pd.DataFrame(records)


def test_pairs_are_of_one_patient_and_near_in_time(index):
    chosen = select_pairs(index, "chest", 1)
    assert list(chosen.series["SeriesInstanceUID"]) == ["1.2.1", "1.0.1"] and list(chosen.series["days"]) == [1, 1]
    assert chosen.summary() == "1 patients, 1 CT series, 1 radiographs, 0.1 GB; CC BY 4.0, doi 10.1/x"
    assert set(select_pairs(index, "chest", 2).series["PatientID"]) == {"A", "B"}
    assert len(select_pairs(index, "ctpa", None).series) == 3  # both radiographs of A
    with pytest.raises(UserError, match="kind=mr: choose ct, chest, ctpa"):
        select_pairs(index, "mr", 1)
    with pytest.raises(UserError, match="no patient has both"):
        select_pairs(index[index["PatientID"] == "D"], "chest", 1)


def test_what_is_missing_is_one_line(index, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="choose covid_19_ny_sbu, covid_19_ar, lidc_idri"):
        read_index(None, "tcia")
    with pytest.raises(UserError, match="no such file; pip install idc-index-data"):
        read_index(tmp_path / "idc_index.parquet", "lidc_idri")
    (tmp_path / "idc_index.parquet").write_bytes(b"PAR1 or not")
    with pytest.raises(UserError, match="pyarrow|not the index"):
        read_index(tmp_path / "idc_index.parquet", "lidc_idri")
    monkeypatch.setitem(__import__("sys").modules, "idc_index", None)
    with pytest.raises(UserError, match="the package idc-index is missing .* where there is a network"):
        download(select_pairs(index, "chest", 1), tmp_path / "dicom")


@pytest.mark.skipif(find_spec("idc_index_data") is None, reason="the package idc-index-data is not installed")
@pytest.mark.parametrize(
    ("collection", "kind", "patients"),
    [("covid_19_ny_sbu", "chest", 241), ("covid_19_ny_sbu", "ctpa", 81), ("lidc_idri", "ct", 290)],
)
def test_counts_of_index_25(collection, kind, patients):
    assert select_pairs(read_index(None, collection), kind, 1).patients == patients
