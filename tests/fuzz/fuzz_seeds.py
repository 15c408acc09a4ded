"""Small valid files of every input format."""

import io
import json
import zipfile
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import torch
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless
from safetensors.torch import save

from ddpm.checkpoint.write import component
from vq_gan_3d import VQGAN3D

SIDE = 24


def grey(side: int = SIDE) -> np.ndarray:
    return (np.add.outer(np.arange(side) * 3, np.arange(side) * 5) % 256).astype(np.uint8)


@cache  # hypothesis wants the same draws of the same seeds
def images() -> list[bytes]:
    """PNG of 8 and 16 bits, JPEG, TIFF, NPY and a flat NIfTI."""
    found = []
    for array, kind in ((grey(), "PNG"), (grey().astype(np.uint16) * 200, "PNG"), (grey(), "JPEG"), (grey(), "TIFF")):
        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, kind)
        found.append(buffer.getvalue())
    return found


@cache
def arrays() -> list[bytes]:
    found = []
    for array in (grey(), grey().astype(np.float32), np.stack([grey()] * 3)):
        buffer = io.BytesIO()
        np.save(buffer, array)
        found.append(buffer.getvalue())
    return found


@cache
def nifti(folder: Path, ending: str) -> bytes:
    """A CT of 6 voxels a side: air around soft tissue."""
    hu = np.full((6, 6, 6), -1000, np.int16)
    hu[2:4, 2:4, 2:4] = 40
    path = folder / f"seed{ending}"
    nib.save(nib.Nifti1Image(hu, np.diag([-2.0, -2.0, 3.0, 1.0])), path)
    return path.read_bytes()


def dicom(folder: Path, syntax=ExplicitVRLittleEndian, modality: str = "DX", **tags) -> bytes:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1" if modality == "DX" else "1.2.840.10008.5.1.4.1.1.2"
    meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID = "1.2.3.4", ExplicitVRLittleEndian
    ds = FileDataset("x", {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, "1.2.3.4"
    ds.Modality, ds.PatientID, ds.StudyInstanceUID, ds.SeriesInstanceUID = modality, "p", "1.2", "1.2.3"
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = SIDE, SIDE, 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.PixelData = (grey().astype(np.uint16) * 10).tobytes()
    for name, value in tags.items():
        setattr(ds, name, value)
    if syntax == RLELossless:
        ds.compress(RLELossless)
    else:
        ds.file_meta.TransferSyntaxUID = syntax
    path = folder / "seed.dcm"
    pydicom.dcmwrite(path, ds, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=True)
    return path.read_bytes()


@cache
def films(folder: Path) -> list[bytes]:
    syntaxes = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, RLELossless)
    windows = {"WindowCenter": 2000, "WindowWidth": 1000, "PatientOrientation": ["L", "F"], "PixelPaddingValue": 0}
    return [dicom(folder, syntax, **windows) for syntax in syntaxes]


@cache
def slices(folder: Path, count: int = 5) -> list[bytes]:
    places = {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "PixelSpacing": [1, 1], "RescaleIntercept": -1024,
              "RescaleSlope": 1}  # fmt: skip
    return [
        dicom(folder, modality="CT", SOPInstanceUID=f"1.2.3.{i}", ImagePositionPatient=[0, 0, 2 * i], **places)
        for i in range(count)
    ]


def checkpoint() -> tuple[dict, dict[str, torch.Tensor]]:
    """Header and weights of a small VQ-GAN."""
    torch.manual_seed(0)
    model = VQGAN3D(n_codes=8, embedding_dim=2, n_hiddens=8, n_res_blocks=1)
    header = {"format": 1, "stage": "vqgan", "components": {"vqgan": component(model, "model.")}, "protocol": {}}
    return header, {f"model.{key}": value for key, value in model.state_dict().items()}


@cache
def checkpoint_files() -> tuple[bytes, bytes]:
    """As torch writes it, and as safetensors."""
    header, weights = checkpoint()
    buffer = io.BytesIO()
    torch.save({"header": header, "state_dict": weights}, buffer)
    return buffer.getvalue(), save(weights, {"header": json.dumps(header)})


def packed(content: bytes) -> bytes:
    """A zip archive whose records are compressed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for record in old.infolist():
            new.writestr(record.filename, old.read(record))
    return buffer.getvalue()
