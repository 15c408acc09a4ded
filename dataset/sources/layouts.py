"""What names of folders and files mean by convention: splits, masks, folders of many patients.

Known are folders of splits, nnU-Net and the Medical Segmentation Decathlon (`imagesTr`, `labelsTr`),
TotalSegmentator (`segmentations`), LUNA16 (`subset0`, `seg-lungs-LUNA16`), and CT-RATE, where `train_7_a_1` is a
reconstruction of patient `train_7`.
"""

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from dataset.io.paths import volume_name
from dataset.manifest.patient_linkage import merge_patients

SPLIT_FOLDER = re.compile(r"(train|val|test)(?:ing|id|idation)?(?:[_-](?:set|data|fixed|split))?", re.IGNORECASE)
CONTAINER = re.compile(r"images?(?:Tr|Ts|Val)?|cts?|scans?|volumes?|data|nifti|dicom|patients|subset\d", re.IGNORECASE)
MASK_FOLDER = re.compile(
    r"(?:labels?|masks?|seg|segmentations?|annotations?|seg-lungs-luna16)(?:Tr|Ts|Val)?", re.IGNORECASE
)
MASK_FILE = re.compile(r"(?:.*[._-])?(?:labels?|masks?|seg|segmentations?)", re.IGNORECASE)
CT_RATE = re.compile(r"(train|valid)_\d+(?=_[a-z]+_\d+$)")
LONGEST_NAME = 120  # letters of an id without its digest: `dataset.manifest.table.LONGEST_ID`, and room for endings
# A Patient ID that names no patient: of an anonymiser, a test, or a number that each site counts
PLACEHOLDER = re.compile(r"anon.*|unknown.*|none|test.*|patient|x+|0+|\d{1,3}", re.IGNORECASE)
MOST_NAMES = 5  # that a Patient ID connects
VAL_SHARE = 10  # one of so many training patients validates where there are no folders for it


class Place(NamedTuple):
    """What the path of a CT tells."""

    patient: tuple[str, ...]  # split and name of the folder of a patient; empty if the path names none
    split: str  # train, val, test, or "" for open


def is_mask(path: PurePosixPath) -> bool:
    """Whether a file is a segmentation by its name or by a folder above it."""
    above = any(MASK_FOLDER.fullmatch(part) for part in path.parts[:-1])
    return above or MASK_FILE.fullmatch(volume_name(path)) is not None


def places_of(paths: Sequence[PurePosixPath], ids: Sequence[str], every_id: bool = False) -> list[Place]:
    """Patient and split of each CT (a file, or the folder of a series), relative to the folder of the data set.

    Folders above all CTs name no patient. Splits count where there are `train` and others of it. `ids` are the Patient
    IDs of the headers, "" if unknown: validation takes whole patients, with `every_id` all CTs of any ID.
    """
    shared = len(os.path.commonprefix([path.parts[:-1] for path in paths]))
    found = [_place(path, shared) for path in paths]
    splits = {place.split for place in found}
    if "train" not in splits or splits <= {"train", ""}:
        return [Place(place.patient[1:] and ("", place.patient[1]), "") for place in found]
    if "val" in splits:
        return found
    names = [place.patient or (str(path),) for place, path in zip(found, paths, strict=True)]
    splits = with_validation(one_name_each(names, ids, every_id), [place.split for place in found])
    return [place._replace(split=split) for place, split in zip(found, splits, strict=True)]


def one_name_each(names: Sequence[Hashable], ids: Sequence[str], every_id: bool = False) -> list[Hashable]:
    """The names of patients, of which those with one Patient ID become one.

    A constant ID, as some anonymisers write it, says nothing, nor does a `PLACEHOLDER` or one of `crowded_ids` unless
    `every_id` counts.
    """
    links = [(name, number) for name, number in zip(names, ids, strict=True) if number]
    if len({number for _, number in links}) < 2:
        return merge_patients(names, [])
    if every_id:
        return merge_patients(names, links)
    many = crowded_ids(names, ids)
    return merge_patients(names, [link for link in links if link[1] not in many and not _is_placeholder(link[1])])


def crowded_ids(names: Sequence[Hashable], ids: Sequence[str]) -> dict[str, int]:
    """How many names have a Patient ID, for each that is no placeholder and has more than `MOST_NAMES`."""
    found = Counter(number for _, number in set(zip(names, ids, strict=True)) if not _is_placeholder(number))
    return {number: count for number, count in found.items() if number and count > MOST_NAMES}


def unique_ids(names: Sequence[str], sources: Sequence[str]) -> list[str]:
    """An id for each name, in letters, digits, dots, dashes and underscores, as Hydra parses them.

    A digest of the source is added where letters get lost, or where two ids would differ in case alone or not at all.
    """
    cut = [name[:LONGEST_NAME] for name in names]
    plain = [re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("_.") or "case" for name in cut]
    counts = Counter(name.lower() for name in plain)
    return [
        one
        if counts[one.lower()] == 1 and name.isascii() and len(name) <= LONGEST_NAME
        or one == name and plain.count(one) == 1
        else f"{one}_{_digest(source)}"
        for one, name, source in zip(plain, names, sources, strict=True)
    ]  # fmt: skip


def _is_placeholder(number: str) -> bool:
    return PLACEHOLDER.fullmatch(number.strip()) is not None


def _place(path: PurePosixPath, shared: int) -> Place:
    if match := CT_RATE.match(volume_name(path)):
        return Place(("", match[0]), "train" if match[1] == "train" else "val")
    folders, split = list(path.parts[shared:-1]), ""
    while folders and (CONTAINER.fullmatch(folders[0]) or (not split and SPLIT_FOLDER.fullmatch(folders[0]))):
        word = SPLIT_FOLDER.fullmatch(folders.pop(0))
        split = word[1].lower() if word else split
    return Place((split, folders[0]) if folders else (), split)


def with_validation(patients: Sequence[object], splits: Sequence[str]) -> list[str]:
    """The splits with some of the training patients, by their names, in validation."""
    places = list(zip(patients, splits, strict=True))
    train = sorted({name for name, split in places if split == "train"}, key=_digest)
    chosen = {(name, "train") for name in train[: max(1, len(train) // VAL_SHARE)]} if len(train) > 1 else set()
    return ["val" if place in chosen else place[1] for place in places]


def _digest(source: object) -> str:
    return hashlib.sha256(unicodedata.normalize("NFC", str(source)).encode()).hexdigest()[:8]
