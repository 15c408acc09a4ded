"""The study folder: written once when a study is made, read by the readers' page and by the analysis.

    study/
      study.json           everything a page needs, without the arms (format below)
      volumes/<item>.nii   int16 HU; one size, spacing, window and header for all, uncompressed, so that neither a
                           file's size nor its header reveals the arm
      answers/<reader>.csv one row a reading, written by the page (or by hand)
    study-key/             beside the study, never inside; for the investigator only
      key.json, key.csv    seed (JSON only), and for each item its arm, case, patient and label

`study.json`:
    {"format": 1, "title": str, "mark": str, "key_sha256": hex, "window": [low, high] HU,
     "volume_size": [D, H, W], "spacing": [d, h, w] mm,
     "questions": [{"name", "text", "kind": "ordinal"|"real_or_generated"|"pe_confidence", "choices": [str, ...]}],
     "items": [{"item": code, "file": "volumes/<code>.nii"}],
     "readers": [{"reader": "reader_01", "order": [code, ...]}],
     "repeats": int, "arms": 3, "cases_per_arm": int, "precision": {...}}

A page shows reader R the items of R's `order` from first to last and shows no code. Positions count from 1. It appends
to `answers/<reader>.csv`, whose columns are `position, item`, one for each question by its name, and, if known,
`seconds`. An answer is the number of the choice, from 1; empty where the reader gave none. A reading may be corrected
until the next is shown, never afterwards; the first reading of an item is the one at its lower position. Readers are
codes; neither folder holds their names.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from common.errors import UserError
from common.files import sha256, visible, write_json
from dataset.io.nifti import write_nifti
from dataset.manifest.read_csv import read_csv
from evaluation.readers.design import Item
from evaluation.readers.questions import Question, parse_questions

FORMAT = 1
MARK = "READER STUDY, MAY BE SYNTHETIC - not for diagnosis"  # the same on every arm: any other mark would unblind
COLUMNS = ("position", "item")


@dataclass(frozen=True)
class Study:
    """The open part of a study, `study.json`."""

    folder: Path
    about: dict
    questions: list[Question]

    @property
    def orders(self) -> dict[str, list[str]]:
        """The codes each reader sees, in order."""
        return {entry["reader"]: list(entry["order"]) for entry in self.about["readers"]}

    @property
    def first_readings(self) -> int:
        """Number of first readings of all readers together, when the study is complete."""
        return sum(len(set(order)) for order in self.orders.values())


def key_folder(study: str | Path, key: str | Path | None = None) -> Path:
    """Folder of the key: `key`, else `<study>-key` beside the study; UserError inside of it, where readers see it."""
    study = Path(study)
    found = study.with_name(f"{study.name}-key") if key is None else Path(key)
    if study.resolve() in (found.resolve(), *found.resolve().parents):
        raise UserError(f"key={found}: inside of {study}, which readers see; name a folder outside of it")
    return found


def write_volume(folder: Path, code: str, hu, spacing) -> None:
    """One volume under its code; all files get the same time stamp, since the order of writing would reveal arms."""
    path = folder / "volumes" / f"{code}.nii"
    write_nifti(path, hu, spacing, description=MARK)
    os.utime(path, (0, 0))


def write_study(folder: Path, key: Path, about: dict, items: list[Item], seed: int, origin: dict) -> None:
    """Writes the key and `study.json` with its SHA-256, which reveals a later change; `origin` is what made the arms.

    The key holds a random number, against finding the assignment by hashing all candidates.
    """
    entries = {item.item: {k: v for k, v in asdict(item).items() if k != "item"} for item in items}
    secret = {"format": FORMAT, "seed": seed, "secret": os.urandom(16).hex(), "items": entries, "origin": origin}
    key.mkdir(parents=True, exist_ok=True)
    write_json(key / "key.json", secret, sort_keys=True)
    pd.DataFrame([asdict(item) for item in items]).to_csv(key / "key.csv", index=False)
    for name in ("key.json", "key.csv"):
        os.chmod(key / name, 0o600)
    codes = sorted(item.item for item in items)  # sorted by code, which is random
    files = [{"item": code, "file": f"volumes/{code}.nii"} for code in codes]
    (folder / "answers").mkdir(exist_ok=True)
    content = {"format": FORMAT, "mark": MARK, "key_sha256": sha256(key / "key.json"), **about, "items": files}
    write_json(folder / "study.json", content)


def read_study(folder: str | Path | None) -> Study:
    """The open part; UserError without a study of this format."""
    if not folder or not (Path(folder) / "study.json").is_file():
        raise UserError(f"study={folder}: no study.json there; make a study with action=create study=<folder>")
    about = _json(Path(folder) / "study.json")
    lacking = {"key_sha256", "questions", "items", "readers"} - set(about)
    if about.get("format") != FORMAT or lacking:
        found = f"format {about.get('format')}" if about.get("format") != FORMAT else f"no {sorted(lacking)[0]}"
        raise UserError(f"{folder}/study.json: {found}; format {FORMAT} is needed, make a new study")
    return Study(Path(folder), about, parse_questions(about["questions"]))


def read_key(study: Study, key: str | Path | None = None) -> list[Item]:
    """The items with their arms; UserError without a key, or if its hash is not that in `study.json`."""
    path = key_folder(study.folder, key) / "key.json"
    if not path.is_file():
        raise UserError(f"{path}: no key there; name its folder with key=<folder>")
    digest, sealed = sha256(path), study.about["key_sha256"]
    if digest != sealed:
        raise UserError(
            f"{path}: SHA-256 {digest[:16]}…, the study was sealed with {sealed[:16]}…: the key was changed or "
            "belongs to another study; take the one that was written with it"
        )
    items = [Item(code, **entry) for code, entry in _json(path)["items"].items()]
    odd = sorted({item.item for item in items} ^ {entry["item"] for entry in study.about["items"]})
    if odd:
        raise UserError(f"{path}: item {odd[0]} is in the key or in study.json, not in both; restore both files")
    return items


def read_answers(study: Study) -> pd.DataFrame:
    """All readings: columns `reader, position, item`, one for each question (NaN = no answer), and `reading`, 1 or 2.

    Raises UserError, which names file and row, without answers and for an unknown reader, a missing column, a repeated
    position or one of another item, and an answer outside of its choices.
    """
    files = visible((study.folder / "answers").glob("*.csv"))
    if not files:
        raise UserError(f"{study.folder / 'answers'}: no <reader>.csv; readers have answered nothing yet")
    orders, tables = study.orders, []
    for file in files:
        if file.stem not in orders:
            raise UserError(f"{file}: no reader of that name in study.json; there are {', '.join(orders)}")
        tables.append(_read_reader(file, study, orders[file.stem]))
    answers = pd.concat(tables, ignore_index=True)
    answers["reading"] = answers.sort_values("position").groupby(["reader", "item"]).cumcount() + 1
    return answers


def _read_reader(file: Path, study: Study, order: list[str]) -> pd.DataFrame:
    names = [question.name for question in study.questions]
    table = read_text_table(file, (*COLUMNS, *names))[[*COLUMNS, *names]].copy()
    for row, entry in enumerate(table.to_dict("records"), start=2):
        place = entry["position"]
        if not place.isdigit() or not 1 <= int(place) <= len(order):
            raise UserError(f"{file}: row {row} has position={place}; give 1 to {len(order)}")
        if order[int(place) - 1] != entry["item"]:
            raise UserError(
                f"{file}: row {row} has item={entry['item']} at position {place}, the order has "
                f"{order[int(place) - 1]}; answers belong to another reader or study"
            )
        for question in study.questions:
            answer, most = entry[question.name].strip(), len(question.choices)
            if answer and not (answer.isdigit() and 1 <= int(answer) <= most):
                raise UserError(f"{file}: row {row} has {question.name}={answer}; give 1 to {most}, or nothing")
    repeated = table["position"][table["position"].astype(int).duplicated()]
    if len(repeated):
        raise UserError(f"{file}: two rows have position {repeated.iloc[0]}; keep the first answer")
    for name in names:
        table[name] = pd.to_numeric(table[name].str.strip().replace("", None)).astype(float)
    table["position"] = table["position"].astype(int)
    table.insert(0, "reader", file.stem)
    return table


def read_text_table(path: Path, columns: tuple[str, ...], optional: str = "") -> pd.DataFrame:
    """A CSV file as text, empty cells as ""; UserError if it is malformed or lacks one of the columns."""
    remedy = f"columns are {', '.join(columns)}{optional}"
    table = read_csv(path)
    lacking = [name for name in columns if name not in table.columns]
    if lacking:
        raise UserError(f"{path}: no column {lacking[0]}; {remedy}")
    return table


def _json(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not JSON ({error}); restore it") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a JSON object; restore it")
    return content
