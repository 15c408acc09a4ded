"""Writes DICOM radiographs of every polarity, orientation and intent for tests, from one asymmetric film."""

from datetime import datetime
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    ExplicitVRLittleEndian,
    generate_uid,
)

TIME = datetime(2019, 3, 4, 8, 0, 0)


def film(height=80, width=64, top=4095):
    """Stored values of a frontal film, bright bone: spine, heart toward the patient's left, marker upper left."""
    rows, columns = np.mgrid[:height, :width]
    y, x = (rows + 0.5) / height, (columns + 0.5) / width
    image = np.full((height, width), 0.75)
    image[((x - 0.28) / 0.18) ** 2 + ((y - 0.5) / 0.38) ** 2 < 1] = 0.25
    image[((x - 0.72) / 0.16) ** 2 + ((y - 0.5) / 0.38) ** 2 < 1] = 0.25
    image[((x - 0.62) / 0.17) ** 2 + ((y - 0.66) / 0.2) ** 2 < 1] = 0.8  # heart: the right of the image
    image[np.abs(x - 0.5) < 0.05] = 0.95
    image[int(0.05 * height) : int(0.1 * height), int(0.08 * width) : int(0.16 * width)] = 1.0
    image += 0.05 * y + 0.02 * np.sin(7 * x)
    return np.rint(np.clip(image, 0, 1) * top).astype(np.uint16)


def save_radiograph(
    path,
    stored=None,
    *,
    photometric="MONOCHROME2",
    bits=12,
    signed=False,
    patient="PAT-1",
    study_uid=None,
    uid=None,
    accession="ACC-X1",
    time=TIME,
    view="PA",
    orientation=("L", "F"),
    age="061Y",
    sex="F",
    body_part="CHEST",
    intent="FOR PRESENTATION",
    modality="DX",
    voi=None,
    **tags,
):
    """One DX file; `voi` is (first value, entries) of a VOI LUT; `tags` are set last, None removes an element."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = film() if stored is None else np.asarray(stored)
    processing = intent == "FOR PROCESSING"
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = (
        DigitalXRayImageStorageForProcessing if processing else DigitalXRayImageStorageForPresentation
    )
    meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID = uid or generate_uid(), ExplicitVRLittleEndian
    ds = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    ds.Modality, ds.PresentationIntentType = modality, intent
    ds.PatientID, ds.PatientName, ds.AccessionNumber = patient, f"Name^{patient}", accession
    ds.StudyInstanceUID, ds.SeriesInstanceUID = study_uid or generate_uid(), generate_uid()
    ds.PatientAge, ds.PatientSex, ds.ViewPosition, ds.BodyPartExamined = age, sex, view, body_part
    if orientation is not None:
        ds.PatientOrientation = list(orientation)
    if time is not None:
        ds.StudyDate = ds.AcquisitionDate = time.strftime("%Y%m%d")
        ds.StudyTime = ds.AcquisitionTime = time.strftime("%H%M%S")
    ds.Rows, ds.Columns = stored.shape[:2]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, photometric
    allocated = 8 if bits <= 8 else 16
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = allocated, bits, bits - 1, int(signed)
    ds.PixelData = stored.astype(f"{'i' if signed else 'u'}{allocated // 8}").tobytes()
    if voi is not None:
        first, entries = voi
        item = Dataset()
        item.LUTDescriptor = [len(entries), first, 8 if max(entries) < 256 else 16]
        item.add_new("LUTData", "US", [int(v) for v in entries])
        ds.VOILUTSequence = [item]
    for name, value in tags.items():
        if value is None:
            del ds[name]
        else:
            setattr(ds, name, value)
    pydicom.dcmwrite(path, ds)
    return path
