"""Pseudonyms are HMAC-SHA256 under a private key; ages are capped; logs hold no identifier."""

import hashlib
import os
import re
import stat

import pandas as pd
import pytest

from common.errors import UserError
from dataset.preparation.deidentify import Pseudonyms, age_years


def hmac_by_hand(key: bytes, message: bytes) -> str:
    """RFC 2104 from its definition: H(key ^ opad, H(key ^ ipad, message))."""
    block = key.ljust(64, b"\0")
    inner = hashlib.sha256(bytes(b ^ 0x36 for b in block) + message).digest()
    return hashlib.sha256(bytes(b ^ 0x5C for b in block) + inner).hexdigest()


def test_ids_are_hmac_sha256_of_kind_and_value(tmp_path):
    names = Pseudonyms(tmp_path / "link")
    key = bytes.fromhex((tmp_path / "link" / "key").read_text())
    assert len(key) == 32
    for kind, value in (("patient", "4711"), ("study", "1.2.3"), ("patient", "Müller^Jürgen")):
        assert names.id(kind, value) == hmac_by_hand(key, f"{kind}\0{value}".encode())[:16]


def test_ids_are_stable_and_differ_by_value_kind_and_key(tmp_path):
    first = Pseudonyms(tmp_path / "a")
    again, other = Pseudonyms(tmp_path / "a"), Pseudonyms(tmp_path / "b")
    assert first.id("patient", "7") == again.id("patient", " 7 ") != other.id("patient", "7")
    assert first.id("patient", "7") != first.id("study", "7")
    assert first.id("a", "bc") != first.id("ab", "c")  # the boundary between kind and value counts
    assert len({first.id("patient", str(i)) for i in range(5000)}) == 5000
    with pytest.raises(ValueError, match="empty"):
        first.id("patient", "  ")


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
def test_only_the_owner_can_read_key_and_linkage(tmp_path):
    names = Pseudonyms(tmp_path / "link")
    names.record({"id": "a", "patient": "4711"})
    names.write()
    modes = [stat.S_IMODE((tmp_path / "link" / name).stat().st_mode) for name in ("key", "linkage.csv", ".")]
    assert modes == [0o600, 0o600, 0o700]


def test_the_linkage_table_keeps_rows_of_earlier_runs(tmp_path):
    names = Pseudonyms(tmp_path)
    names.record({"id": "a", "patient": "007", "accession": "A,1"})
    names.record({"id": "b", "patient": "8"})
    names.write()
    second = Pseudonyms(tmp_path)
    second.record({"id": "b", "patient": "9"})
    second.record({"id": "c", "patient": "10"})
    second.write()
    rows = pd.read_csv(tmp_path / "linkage.csv", dtype=str, keep_default_na=False).set_index("id")
    assert rows["patient"].to_dict() == {"a": "007", "b": "9", "c": "10"} and rows.loc["a", "accession"] == "A,1"


def test_the_linkage_is_never_inside_the_output(tmp_path):
    for folder in (tmp_path / "out", tmp_path / "out" / "deep" / "link", tmp_path / "out" / ".." / "out" / "x"):
        with pytest.raises(UserError, match="is inside"):
            Pseudonyms(folder, tmp_path / "out")
    Pseudonyms(tmp_path / "out-linkage", tmp_path / "out")


@pytest.mark.parametrize("content", ["", "not a key", "abcd", "é" * 64])
def test_a_damaged_key_is_refused_and_kept(tmp_path, content):
    (tmp_path / "key").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match="key"):
        Pseudonyms(tmp_path)
    assert (tmp_path / "key").read_text(encoding="utf-8") == content


@pytest.mark.parametrize(
    ("value", "study", "birth", "years"),
    [
        ("045Y", "", "", 45),
        ("018M", "", "", 1),
        ("060W", "", "", 1),
        ("003D", "", "", 0),
        ("89Y", "", "", 89),
        ("090Y", "", "", 90),
        ("104Y", "", "", 90),
        ("", "20190304", "19570312", 61),  # eight days before the birthday
        ("", "20190312", "19570312", 62),
        ("", "20190304", "19140101", 90),
        ("", "20190304", "18000101", None),
        ("", "20190304", "20200101", None),
        ("", "20190304", "", None),
        ("", "", "19570312", None),
        ("unknown", "", "", None),
        ("63", "", "", 63),
    ],
)
def test_age_in_years_capped_at_90(value, study, birth, years):
    assert age_years(value, study, birth) == years


def test_scrubbed_lines_hold_no_identifier(tmp_path):
    names = Pseudonyms(tmp_path / "link")
    names.id("patient", "PAT-4711")
    names.record({"id": "abc", "accession": "ACC77889", "name": "DOE^JOHN"})
    line = (
        f"{tmp_path}/src/DOE^JOHN/1.dcm: PAT-4711 on 2019-03-04 and 20190304 (ACC77889), UID 1.2.840.113619.2.55.3.4; "
        r"smith/chest/x.dcm, C:\export\doe\x.dcm is damaged, 512x512 pixels, 0.75 mm, [-1024, 3071], 61 slices"
    )
    scrubbed = names.scrub(line)
    for secret in ("PAT-4711", "ACC77889", "DOE", "doe", "smith", "2019", "1.2.840", "export", str(tmp_path)):
        assert secret not in scrubbed
    assert scrubbed.endswith("is damaged, 512x512 pixels, 0.75 mm, [-1024, 3071], 61 slices")


def test_scrubbing_searches_only_for_identifiers_that_the_text_contains(tmp_path, monkeypatch):
    names, searched, substitute = Pseudonyms(tmp_path / "link"), [], re.sub
    for i in range(1000):
        names.id("state", f"state of case {i:04d}")
    names.record({"id": "a", "name": "Smith"})
    monkeypatch.setattr(re, "sub", lambda *args: searched.append(args[0]) or substitute(*args))
    assert names.scrub("Smith, smith: state of case 0007") == "[removed], smith: [removed]"  # case counts
    assert len(searched) == 2


def test_an_identifier_is_removed_as_a_whole_word_only(tmp_path):
    names = Pseudonyms(tmp_path / "link")
    for patient in ("lung", "slice", "a.b+c"):
        names.id("patient", patient)
    line = names.scrub("lungs cut at the top; lung: 3 slices, slice-7 of lung_2 (a.b+c) is damaged")
    assert line == "lungs cut at the top; [removed]: 3 slices, [removed]-7 of [removed]_2 ([removed]) is damaged"
