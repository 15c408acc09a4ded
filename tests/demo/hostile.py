"""Hostile X-rays and CTs, each with a name for its defect; not a test file."""

import functools
import gzip
import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

DX = "1.2.840.10008.5.1.4.1.1.1.1"
JPEG, JPEG2000, RLE = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.5"
DEFLATED = "1.2.840.10008.1.2.1.99"
EXECUTABLE, SCRIPT = b"MZ\x90\0" * 20, b"<script>fetch('http://x')</script>"
ABSURD = (0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**32 - 1)
MEBIBYTE = bytes(1 << 20)


def grey(side: int = 64) -> np.ndarray:
    return np.add.outer(np.arange(side), np.arange(side)).astype(np.uint8)


def png(array=None, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(grey() if array is None else array).save(buffer, "PNG", **options)
    return buffer.getvalue()


def jpeg(array=None) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(grey() if array is None else array).save(buffer, "JPEG")
    return buffer.getvalue()


def many_scans(count: int = 101) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    buffer = io.BytesIO()
    Image.fromarray(grey()).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    return data[:-2] + data[data.rindex(b"\xff\xda") : -2] * count + data[-2:]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def zeros(count: int, start: bytes = b"", wbits: int = 15) -> bytes:
    """`start` and `count` zeros, compressed (raw, zlib or gzip by `wbits`): a mebibyte once, its bytes repeated."""
    whole, rest = divmod(count, len(MEBIBYTE))
    body = _deflated(start) + whole * _deflated(MEBIBYTE) + _deflated(bytes(rest), zlib.Z_FINISH)
    if wbits < 0:
        return body
    check = zlib.adler32 if wbits == 15 else zlib.crc32
    value = check(start)
    for _ in range(whole):
        value = check(MEBIBYTE, value)
    value = check(bytes(rest), value)
    if wbits == 15:
        return b"\x78\xda" + body + struct.pack(">I", value)
    return gzip.compress(b"")[:10] + body + struct.pack("<II", value, (len(start) + count) % 2**32)


@functools.cache
def _deflated(data: bytes, end: int = zlib.Z_FULL_FLUSH) -> bytes:
    """Blocks that refer to nothing before them and end at a byte."""
    squeezer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return squeezer.compress(data) + squeezer.flush(end)


def png_of(width: int, height: int, count: int = 0, extra: bytes = b"", depth: int = 8, colour: int = 0) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", head) + extra + chunk(b"IDAT", zeros(count)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def dicom(preamble: bytes = b"\0" * 128, syntax: str = ExplicitVRLittleEndian, pixels=None, **elements) -> bytes:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = DX, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = FileDataset(None, {}, file_meta=meta, preamble=preamble.ljust(128, b"\0")[:128])
    file.SOPClassUID, file.SOPInstanceUID, file.Modality = DX, meta.MediaStorageSOPInstanceUID, "DX"
    file.PatientName = "MUELLER^HANS"
    base = {"Rows": 64, "Columns": 64, "SamplesPerPixel": 1, "BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
    base |= {"PixelRepresentation": 0, "PhotometricInterpretation": "MONOCHROME2"}
    for name, value in {**base, **elements}.items():
        if value is not None:
            setattr(file, name, value)
    if pixels is None or pixels:
        file.PixelData = grey().tobytes() if pixels is None else pixels
        file["PixelData"].VR = "OB"
        file["PixelData"].is_undefined_length = syntax in (JPEG, JPEG2000, RLE)
    meta.TransferSyntaxUID = syntax
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, file, enforce_file_format=False, force_encoding=False) if syntax != DEFLATED else (
        pydicom.dcmwrite(buffer, file)
    )
    return buffer.getvalue()


def nifti(dims=(64, 64, 1), datatype=2, offset=352.0, data=None, header=348, magic=b"n+1\0", count=None) -> bytes:
    raw = bytearray(352)
    struct.pack_into("<i", raw, 0, header)
    sizes = [len(dims) if count is None else count, *dims, *[1] * (7 - len(dims))]
    struct.pack_into("<8h", raw, 40, *sizes[:8])
    struct.pack_into("<hh", raw, 70, datatype, 8)
    struct.pack_into("<8f", raw, 76, 1, 1, 1, 1, 1, 1, 1, 1)
    struct.pack_into("<f", raw, 108, offset)
    struct.pack_into("<h", raw, 254, 1)  # sform
    for row in range(3):
        struct.pack_into("<4f", raw, 280 + 16 * row, *(float(row == column) for column in range(4)))
    raw[344:348] = magic
    return bytes(raw) + (grey().tobytes() if data is None else data)


def hostile_xrays() -> Iterator[tuple[str, bytes]]:
    """Files that are no X-ray; each must be refused."""
    good = {"png": png(), "jpeg": jpeg(), "dicom": dicom(), "nifti": nifti(), "packed": gzip.compress(nifti())}
    # cut off anywhere
    for kind, data in good.items():
        for share in (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97):
            yield f"{kind} cut at {share}", data[: int(len(data) * share)]
        maybe = "maybe " if kind in ("png", "jpeg") else ""  # what follows a picture is not copied
        yield f"{maybe}{kind} with a program behind", data + EXECUTABLE * 60
        yield f"{maybe}{kind} with a page behind", data + SCRIPT * 200
        yield f"{kind} behind a program", EXECUTABLE + data
    yield "empty", b""
    for name, data in {
        "zeros": bytes(5000), "text": b"chest x-ray\n" * 99, "a program": EXECUTABLE * 9, "a page": SCRIPT,
        "a PDF": b"%PDF-1.7\n" * 99, "a zip": b"PK\3\4" + bytes(900), "gif": b"GIF89a" + bytes(900),
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "bmp": b"BM" + bytes(900),
        "tiff": b"II*\0" + bytes(900), "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "numpy": b"\x93NUMPY\x01\0v\0{'descr': '|O'}" + bytes(99), "pickle": b"\x80\4cos\nsystem\n(S'id'\ntR.",
        "gzip of text": gzip.compress(b"text" * 999), "gzip of nothing": gzip.compress(b""),
        "gzip of gzip": gzip.compress(gzip.compress(nifti())), "gzip bomb": zeros(300_000_000, wbits=31),
    }.items():  # fmt: skip
        yield name, data
    # sizes that a header claims
    for width in ABSURD:
        yield f"png {width} wide", png_of(width, 64)
        yield f"png {width} high", png_of(64, width)
    yield "png of 100,000 pixels", png_of(100_000, 100_000)
    yield "png strip", png(np.tile(grey(), (1, 9)))
    yield "png bomb", png_of(8000, 3000, 8001 * 3000)
    yield "png bomb of colour", png_of(4000, 4000, 12001 * 4000, colour=2)
    yield "png whose data are too many", png_of(64, 64, 100_000_000)
    yield "png of text", png_of(64, 64, 65 * 64, chunk(b"zTXt", b"a\0\0" + zeros(90_000_000)))
    yield "png of a long text", png_of(64, 64, 65 * 64, chunk(b"iTXt", bytes(3_000_000)))
    yield (
        "png profile bomb",
        png_of(64, 64, 65 * 64, chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(50_000_000)))),
    )
    yield "moving png", png_of(64, 64, 65 * 64, chunk(b"acTL", struct.pack(">II", 2**31, 0)))
    yield "png without an end", png()[:-12]
    yield "png with a chunk of 2 GB", png()[:33] + struct.pack(">I", 2**31 - 1) + b"IDAT" + png()[41:]
    yield "png without its head", png()[:8] + png()[33:]
    yield "png with wrong sums", png().replace(b"IDAT", b"IDAX")
    yield "png of one grey", png(np.full((64, 64), 7, np.uint8))
    yield "colour png", png(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    yield "png with alpha", png(np.random.default_rng(0).integers(0, 255, (64, 64, 4), dtype=np.uint8))
    yield "png of 2 pixels", png(grey(2))
    for value in (0, 1, 9, 2**15, 2**16 - 1):
        sof = jpeg().index(b"\xff\xc0")
        yield f"jpeg {value} high", jpeg()[: sof + 5] + struct.pack(">H", value) + jpeg()[sof + 7 :]
        yield f"jpeg {value} wide", jpeg()[: sof + 7] + struct.pack(">H", value) + jpeg()[sof + 9 :]
    yield "jpeg without a frame", jpeg().replace(b"\xff\xc0", b"\xff\xe5")
    yield "jpeg of a length of 0", jpeg()[:4] + b"\0\0" + jpeg()[6:]
    yield "jpeg of markers", b"\xff\xd8" + b"\xff" * 100_000
    yield "jpeg of comments", b"\xff\xd8\xff" + b"\xfe\0\2\xff" * 50_000 + b"\xd9"
    yield "jpeg of many scans", many_scans()
    for frames in (2, 0, -1, 10**6, 2**31 - 1, 10**12, "many"):
        if frames != 0:
            yield (
                f"dicom of {frames} frames",
                dicom().replace(b"\x28\0\x10\0US", _element(0x0028, 0x0008, b"IS", str(frames)) + b"\x28\0\x10\0US"),
            )
    for rows in (0, 1, 65535):
        yield f"dicom of {rows} rows", dicom(Rows=rows)
        yield f"dicom of {rows} columns", dicom(Columns=rows)
        yield f"dicom of {rows} square", dicom(Rows=rows, Columns=rows)
    yield "dicom without rows", dicom(Rows=None)
    yield "dicom without pixels", dicom(pixels=b"")
    yield "dicom in colour", dicom(SamplesPerPixel=3, PhotometricInterpretation="RGB")
    yield "dicom of 65535 channels", dicom(SamplesPerPixel=65535)
    for bits in (1, 7, 24, 64, 65535):
        yield f"dicom of {bits} bits", dicom(BitsAllocated=bits)
    yield "dicom of an MR", dicom(Modality="MR", SOPClassUID="1.2.840.10008.5.1.4.1.1.4")
    yield "dicom with text burned in", dicom(BurnedInAnnotation="YES")
    yield "deflated dicom", dicom(syntax=DEFLATED)
    yield "deflated dicom bomb", deflated_bomb()
    yield "dicom of an unknown syntax", dicom(syntax="1.2.3.4.5", pixels=b"\0" * 4096)
    big = jpeg(np.zeros((2000, 2000), np.uint8))
    yield "dicom whose jpeg is larger", dicom(syntax=JPEG, pixels=encapsulate([big]))
    yield "dicom whose jpeg has many scans", dicom(syntax=JPEG, pixels=encapsulate([many_scans()]))
    forged = bytearray(jpeg())
    forged[forged.index(b"\xff\xc0") + 5 : forged.index(b"\xff\xc0") + 9] = b"\xff\xff\xff\xff"
    yield "dicom whose jpeg says 65535", dicom(syntax=JPEG, pixels=encapsulate([bytes(forged)]))
    siz = b"\xff\x4f\xff\x51" + struct.pack(">HHIIIIIIII", 41, 0, 60000, 60000, 0, 0, 60000, 60000, 0, 0) + bytes(200)
    yield "dicom whose jpeg 2000 says 60000", dicom(syntax=JPEG2000, pixels=encapsulate([siz]))
    yield "dicom of rle that is none", dicom(syntax=RLE, pixels=encapsulate([bytes(64)]))
    yield "dicom of empty fragments", dicom(syntax=JPEG, pixels=encapsulate([b"\0" * 8]))
    for name, start in {"program": EXECUTABLE, "zip": b"PK\3\4", "page": SCRIPT, "shell": b"#!/bin/sh\n",
                        "png": png()[:20]}.items():  # fmt: skip
        yield f"dicom that is a {name} too", dicom(preamble=start)
    yield "dicom of nested sequences", _nested(3000)
    yield "dicom with an element of 4 GB", dicom() + struct.pack("<HH2sHI", 0x7FE1, 0x0010, b"OB", 0, 2**32 - 2)
    for dims in (
        (32767, 32767),
        (32767, 1, 1),
        (64, 64, 9),
        (64, 64, 1, 9),
        (0, 64),
        (-5, 64),
        (64, 64, 0),
        (9000, 64),
    ):
        yield f"nifti of {dims}", nifti(dims)
        yield f"packed nifti of {dims}", gzip.compress(nifti(dims))
    for datatype in (0, 1, 32, 128, 1024, 1536, 1792, 2048, 9999, -1):
        yield f"nifti of type {datatype}", nifti(datatype=datatype)
    for offset in (float("nan"), float("inf"), -1.0, 0.0, 1e30, 2e9, 347.0):
        yield f"nifti whose voxels start at {offset}", nifti(offset=offset)
    for count in (0, -1, 8, 32767):
        yield f"nifti of {count} dimensions", nifti(count=count)
    yield "nifti of another header", nifti(header=349)
    yield "nifti of two files", nifti(magic=b"ni1\0")
    yield "nifti without its mark", nifti(magic=b"\0\0\0\0")
    yield "nifti of one value", nifti(data=bytes(4096))
    yield "nifti of NaN", nifti(datatype=16, data=np.full(4096, np.nan, "<f4").tobytes())
    yield "nifti bomb", zeros(200_000_000, nifti(), 31)
    yield "packed nifti with a program behind", gzip.compress(nifti()) + EXECUTABLE
    yield "packed nifti twice", gzip.compress(nifti()) * 2
    rng = np.random.default_rng(0)
    for kind, data in good.items():  # bits turned in the first bytes, where sizes stand
        for number in range(8):
            changed = bytearray(data)
            for at in rng.integers(4, min(300, len(data)), 12):
                changed[at] ^= int(rng.integers(1, 256))
            yield f"maybe: {kind} with bits turned {number}", bytes(changed)


def hostile_cts() -> Iterator[tuple[str, bytes]]:
    """The same for volumes."""
    good = nifti((16, 16, 16), data=bytes(4096))
    yield from {
        "an X-ray": png(),
        "a DICOM file": dicom(),
        "a picture": nifti(),
        "all zero": good,
        "nothing": b"",
        "cut off": good[:2000],
        "cut off, packed": gzip.compress(good)[:-20],
        "of 4 dimensions": nifti((8, 8, 8, 8)),
        "absurd": nifti((32767, 32767, 32767)),
        "absurd, packed": gzip.compress(nifti((2000, 2000, 2000))),
        "a bomb": zeros(200_000_000, good, 31),
        "a bomb with a wrong header": gzip.compress(nifti((2000, 2000, 40))),
    }.items()


def _element(group: int, number: int, kind: bytes, text: str) -> bytes:
    value = text.encode().ljust(len(text) + len(text) % 2, b" ")
    return struct.pack("<HH2sH", group, number, kind, len(value)) + value


def _nested(depth: int) -> bytes:
    """Sequences in sequences of undefined length."""
    start = struct.pack("<HH2sHI", 0x0040, 0xA730, b"SQ", 0, 2**32 - 1) + struct.pack(
        "<HHI", 0xFFFE, 0xE000, 2**32 - 1
    )
    return dicom() + start * depth


def deflated_bomb() -> bytes:
    plain = dicom(syntax=DEFLATED)
    head = plain[: 132 + 12 + struct.unpack("<I", plain[140:144])[0]]
    element = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 200_000_000)
    return head + zeros(200_000_000, element, -15)
