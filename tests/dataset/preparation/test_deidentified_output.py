"""Identifiers of the DICOM headers, files and tables of a source appear nowhere in the output of a preparation."""

import gzip
import logging
import re
import subprocess
import sys
import zipfile
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from chest_files import thorax
from dicom_files import write_ct_series
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from PIL import Image
from prepare_runs import configured
from pydicom.uid import generate_uid
from radiograph_files import save_radiograph
from rich.console import Console

from common.errors import UserError
from common.files import ROOT
from dataset.cases.store import source_folder
from dataset.preparation.options import prepare_set
from dataset.preparation.summary import summary_table

CONFIG = ROOT / "config"
TIME, XRAY_TIME = datetime(2017, 11, 23, 13, 57, 41), datetime(2017, 11, 22, 21, 46, 33)
# Attributes of PS3.15 table E.1-1 that are text; each gets a word of its own.
TEXT = re.findall(
    r"\w+",
    """
    PatientName OtherPatientIDs OtherPatientNames PatientAddress PatientTelephoneNumbers PatientMotherBirthName
    PatientBirthName PatientComments AdditionalPatientHistory EthnicGroup Occupation PatientReligiousPreference
    MedicalRecordLocator MilitaryRank BranchOfService CountryOfResidence RegionOfResidence Allergies MedicalAlerts
    InstitutionName InstitutionAddress InstitutionalDepartmentName StationName ReferringPhysicianName
    ReferringPhysicianAddress PerformingPhysicianName NameOfPhysiciansReadingStudy PhysiciansOfRecord
    RequestingPhysician OperatorsName AdmissionID StudyID DeviceSerialNumber DetectorID PlateID CassetteID GantryID
    ProtocolName SeriesDescription StudyDescription ImageComments RequestedProcedureID RequestedProcedureDescription
    ReasonForStudy PerformedProcedureStepDescription PerformedProcedureStepID AcquisitionComments
    AcquisitionDeviceProcessingDescription DerivationDescription FrameComments ScheduledProcedureStepID VisitComments
    AdmittingDiagnosesDescription IssuerOfPatientID InterpretationText ResultsComments CurrentPatientLocation
    PatientInstitutionResidence ContrastBolusAgent
    """,
)
DATES = ["PatientBirthDate", "InstanceCreationDate", "DateOfLastCalibration", "AdmittingDate"]
UIDS = ["InstanceCreatorUID", "DeviceUID", "SynchronizationFrameOfReferenceUID", "IrradiationEventUID"]


def identifying_tags(number: int) -> tuple[dict, set[str]]:
    """Tags for the files of one patient, and the identifiers in them."""
    tags, words = {}, set()
    for i, name in enumerate(TEXT):
        short = pydicom.datadict.dictionary_VR(name) in ("SH", "CS")
        tags[name] = f"ZQ{number}{i:02d}" + ("" if short else f"{name[:8]}Vault")
        words.add(tags[name])
    for i, name in enumerate(DATES):
        year, month = 1941 + 7 * number + i, 3 + i
        tags[name] = f"{year}{month:02d}17"
        words |= {tags[name], f"{year}-{month:02d}-17"}
    uids = {name: generate_uid() for name in UIDS}
    return tags | uids, words | {str(uid) for uid in uids.values()}


def private_block(path: Path, word: str) -> None:
    ds = pydicom.dcmread(path)
    ds.private_block(0x0099, "MAKER", create=True).add_new(0x01, "LO", word)
    ds.save_as(path)


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    """A tree with six patients (paired, tied, damaged, refused), a table of labels, and all identifiers in both."""
    root = tmp_path_factory.mktemp("ZQmount") / "ZQclinicExport"
    words = {"ZQmount", "ZQclinicExport", "ZQtable", TIME.strftime("%Y%m%d"), TIME.strftime("%H%M%S"),
             TIME.strftime("%Y-%m-%d"), XRAY_TIME.strftime("%Y%m%d"), XRAY_TIME.strftime("%H%M%S")}  # fmt: skip
    words |= {"Doe", "ZQACCelsewhere"}
    labels = ["accession,PE", "ZQACCelsewhere,1"]
    for number in range(1, 7):
        tags, own = identifying_tags(number)
        patient, accession = f"ZQPAT{number}77", f"ZQACC{number}88"
        study, series, xray_study, xray = (generate_uid() for _ in range(4))
        words |= own | {patient, accession, accession + "X", study, series, xray_study}
        words |= {f"ZQfolder{number}", f"ZQfile{number}", f"ZQprivate{number}"}
        folder = root / f"ZQfolder{number}_Doe^John" / f"ZQ study {number}"
        write_ct_series(
            folder, thorax(seed=number), patient=patient, accession=accession, study_uid=study, series_uid=series,
            time=TIME, age="093Y", sex="F", prefix=f"ZQfile{number}_", extra=tags,
            skip=(7,) if number == 3 else (), without_pixels=(5,) if number == 4 else (),
        )  # fmt: skip
        for path in folder.iterdir():
            private_block(path, f"ZQprivate{number}")
            words.add(str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID))
        for copy in range(2 if number == 5 else 1):
            path = save_radiograph(
                folder / f"ZQfile{number}_xray{copy}.dcm", patient=patient, accession=accession + "X", time=XRAY_TIME,
                study_uid=xray_study, uid=f"{xray[:-2]}{copy}", age="093Y", sex="F",
                **{**tags, "IrradiationEventUID": generate_uid(),
                   "BurnedInAnnotation": "YES" if number == 6 else "NO"},
            )  # fmt: skip
            private_block(path, f"ZQprivate{number}")
        words.add(xray[:-2])
        labels.append(f"{accession},{number % 2}")
    table = root.parent / "ZQtable.csv"
    table.write_text("\n".join(labels) + "\n")
    return root, table, words


def run(hospital, output, **options):
    root, table, _ = hospital
    labels = {"label.file": table, "label.id": "accession", "label.column": "PE"}
    return prepare_set(configured(root, output, crop_box="whole", spacing="null", **labels, **options))


def contents(folder: Path) -> dict[str, bytes]:
    """Name -> bytes of every file; gzip files uncompressed, after their header, as short names occur by chance."""
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return {n: data[:64] + gzip.decompress(data) if n.endswith(".gz") else data for n, data in found.items()}


def search(data: bytes, words) -> set[str]:
    low = data.lower()
    return {word for word in words if word.lower().encode() in low or word.lower().encode("utf-16-le") in low}


@pytest.fixture(scope="module")
def prepared(hospital, tmp_path_factory):
    output = tmp_path_factory.mktemp("away") / "set"
    run(hospital, output)
    return output


def test_no_identifier_is_in_any_file_or_name(hospital, prepared):
    _, _, words = hospital
    files = contents(prepared)
    assert {"manifest.csv", "summary.csv", "prepare.log", "candidates.csv"} <= files.keys()
    leaks = {name: search(data, words) | search(name.encode(), words) for name, data in files.items()}
    assert not {name: found for name, found in leaks.items() if found}
    assert len(list((prepared / "xray").glob("*.png"))) >= 2


def test_the_search_finds_every_identifier_in_the_source(hospital):
    root, table, words = hospital
    data = b"".join([*contents(root).values(), table.read_bytes(), str(root).encode(), str(table).encode()])
    data += "".join(str(path) for path in root.rglob("*")).encode()
    assert search(data, words) >= {word for word in words if "-" not in word}


def test_reasons_of_failures_hold_no_identifier(prepared):
    summary = pd.read_csv(prepared / "summary.csv", dtype=str, keep_default_na=False)
    assert summary["id"].str.fullmatch(r"[0-9a-f]{16}|").all()
    assert (summary["status"] == "failed").sum() == 2  # a slice without pixels, a missing slice
    text = " ".join(summary["reason"])
    for word in ("missing", "pixel", "equally near", "Burned In Annotation"):
        assert word in text, text
    assert not re.search(r"\b[12]\.\d+\.\d+\.\d+\.\d+", text)


def test_pngs_hold_no_metadata(prepared):
    for path in (prepared / "xray").glob("*.png"):
        assert not Image.open(path).info
        assert not re.search(rb"tEXt|zTXt|iTXt|eXIf|tIME|pHYs", path.read_bytes())


def test_age_and_sex_are_in_the_manifest_only_on_request(hospital, prepared, tmp_path):
    manifest = pd.read_csv(prepared / "manifest.csv", dtype=str, keep_default_na=False)
    assert set(manifest["age"]) == {"-1"} and set(manifest["sex"]) == {""}
    run(hospital, tmp_path / "set", keep_age=True, keep_sex=True)
    manifest = pd.read_csv(tmp_path / "set" / "manifest.csv", dtype=str, keep_default_na=False)
    assert set(manifest["age"]) == {"90"} and set(manifest["sex"]) == {"F"}  # 93 years are capped


def test_the_linkage_is_outside_and_private(hospital, prepared):
    folder = prepared.with_name("set-linkage")
    rows = pd.read_csv(folder / "linkage.csv", dtype=str, keep_default_na=False)
    manifest = pd.read_csv(prepared / "manifest.csv", dtype=str, keep_default_na=False)
    assert set(manifest["id"]) <= set(rows["id"]) and rows["patient"].str.startswith("ZQPAT").all()
    assert oct((folder / "linkage.csv").stat().st_mode & 0o777) == "0o600"
    key = (folder / "key").read_text().strip()
    assert not search(b"".join(contents(prepared).values()), {key})
    with pytest.raises(UserError, match="is inside"):
        run(hospital, prepared, linkage=prepared / "link")


def test_another_key_gives_other_ids_and_the_terminal_shows_no_identifier(hospital, prepared, tmp_path, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    outcome, _ = run(hospital, tmp_path / "set")
    Console(width=400).print(summary_table(outcome))
    shown = capfd.readouterr()
    text = shown.out + shown.err + "".join(r.getMessage() for r in caplog.records if not r.name.startswith("pydicom"))
    assert "equally near" in text and not search(text.encode(), hospital[2])
    ids = [set(pd.read_csv(folder / "manifest.csv")["id"]) for folder in (prepared, tmp_path / "set")]
    assert len(ids[0]) == len(ids[1]) and not ids[0] & ids[1]


@pytest.mark.slow
def test_checkpoints_and_run_folders_hold_no_identifier(hospital, prepared, tmp_path):
    command = [
        sys.executable, str(CONFIG.parent / "train" / "train_vqgan.py"), "experiment=demo_vqgan", "dataset=ctpa",
        f"dataset.root_dir={prepared}", f"dataset.cache_dir={tmp_path}/cache", "dataset.volume_size=[16,16,16]",
        "dataset.xray_size=[16,16]", f"model.default_root_dir={tmp_path}/runs", "model.max_steps=2",
        "model.crop=null", "model.validate_every=2",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    files = contents(tmp_path)
    for name in [name for name in files if name.endswith(".ckpt")]:  # a zip archive
        with zipfile.ZipFile(tmp_path / name) as archive:  # without tensors, whose megabytes hold any three letters
            files[name] = b"".join(archive.read(part) for part in archive.namelist() if "/data/" not in part)
    assert any(name.endswith(".ckpt") for name in files)
    leaks = {name: search(data + name.encode(), hospital[2]) for name, data in files.items()}
    leaks["stdout"] = search(done.stdout.encode(), hospital[2])
    assert not {name: found for name, found in leaks.items() if found}


def test_protocol_and_cache_of_a_data_set_hold_no_identifier(hospital, prepared, tmp_path):
    """Checkpoints hold the protocol; the cache holds cases and manifest."""
    with initialize_config_dir(str(CONFIG), version_base="1.3"):
        cfg = compose("train_ddpm", ["dataset=xrayctpa", "dataset.volume_size=[8,8,8]", "dataset.xray_size=[16,16]",
                                     f"dataset.root_dir={prepared}", f"dataset.cache_dir={tmp_path}"])  # fmt: skip
    source = instantiate(cfg.dataset.source)
    case = source.build(source.rows.iloc[0])
    texts = [repr(source.describe()), repr(source.home()), str(source_folder(source, tmp_path)), repr(sorted(case))]
    texts.append(source.rows.to_csv())
    assert not search(" ".join(texts).encode(), hospital[2])
    xray = np.asarray(case["xray"], dtype=np.float32)  # NaN beside a film of another aspect
    assert np.isfinite(xray).mean() > 0.5 and not np.isinf(xray).any()
