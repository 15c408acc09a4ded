"""Each CT gets the nearest X-ray of its patient, and none where two are possible."""

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from common.errors import UserError
from dataset.io.dicom_headers import Identity
from dataset.io.dicom_series import CtSeries
from dataset.preparation.pairing import pair
from dataset.preparation.radiographs import Radiograph

NOON = datetime(2019, 3, 4, 12, 0, 0)
SECRET = "DOE-4711"


def time(hours):
    return None if hours is None else NOON + timedelta(hours=hours)


def ct(patient=SECRET, hours=0.0, xray=None, **more):
    identity = {"patient": patient, "study_uid": f"1.2.{patient}.{hours}", "time": time(hours), **more}
    return CtSeries([Path("/src/ct/1.dcm")], Identity(**identity), xray=xray)


def xray(hours=0.0, patient=SECRET, view="PA", path=None, uid="", problem="", **more):
    identity = {"patient": patient, "study_uid": f"1.3.{patient}.{hours}", "time": time(hours), **more}
    path = Path(path or f"/src/{patient}/{hours}.dcm")
    return Radiograph(path, Identity(**identity), view=view, uid=uid, problem=problem)


def reasons(result):
    return " | ".join(result.reasons.values())


def table(folder, *rows, header="ct,xray"):
    path = folder / "pairs.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_the_nearest_frontal_xray_of_the_same_patient():
    xrays = [xray(-20), xray(-3), xray(-1, patient="OTHER"), xray(-2, view="lateral"), xray(-2.5, problem="a hand")]
    result = pair([ct()], xrays)
    assert result.pairs == {0: 1} and result.hours == {0: 3.0} and not result.reasons


@pytest.mark.parametrize(
    ("hours", "wanted"),
    [([-5, 1], 0), ([-23.9, 0.1], 0), ([3, 8], 0), ([-24.1, 2], 1), ([0, -1], 0), ([-24.0], 0), ([24.0], 0)],
)
def test_an_earlier_xray_is_preferred_within_the_limit(hours, wanted):
    assert pair([ct()], [xray(h) for h in hours]).pairs == {0: wanted}


def test_xrays_beyond_max_hours_are_not_paired():
    result = pair([ct()], [xray(-30), xray(40)])
    assert not result.pairs and "30 hours away" in reasons(result)
    assert pair([ct()], [xray(-30)], max_hours=48).pairs == {0: 0}


def test_ties_are_listed_not_paired():
    xrays = [xray(-2, uid="a"), xray(-2, uid="b", view="AP")]
    for order in (xrays, xrays[::-1]):
        result = pair([ct()], order)
        assert not result.pairs and "equally near" in reasons(result)


def test_one_xray_of_several_cts_is_listed_for_each():
    result = pair([ct(hours=0), ct(hours=5)], [xray(-1)])
    assert not result.pairs and len(result.reasons) == 2 and "2 CTs" in reasons(result)
    apart = pair([ct(hours=0), ct(hours=24 * 90)], [xray(-1), xray(24 * 90 - 2)])
    assert apart.pairs == {0: 0, 1: 1} and not apart.reasons


def test_a_known_view_is_preferred_and_two_unknown_ones_of_a_study_are_listed():
    assert pair([ct()], [xray(-1, view=""), xray(-2, view="AP")]).pairs == {0: 1}
    assert pair([ct()], [xray(-1, view="")]).pairs == {0: 0}
    two = [xray(-1, view="", study_uid="1.9"), xray(-1.01, view="", study_uid="1.9")]
    result = pair([ct()], two)
    assert not result.pairs and "no view in their headers" in reasons(result)


def test_images_without_time_are_not_paired_by_time():
    assert "CT has no date" in reasons(pair([ct(hours=None)], [xray(-1)]))
    assert "no X-ray with date" in reasons(pair([ct()], [xray(None)]))
    # Without times only a single X-ray is certain.
    assert pair([ct(hours=None)], [xray(None), xray(None, view="lateral")], max_hours=None).pairs == {0: 0}
    assert "2 X-rays of the patient" in reasons(pair([ct(hours=None)], [xray(None), xray(None)], max_hours=None))


def test_two_persons_under_one_id_are_not_paired():
    result = pair([ct(sex="F")], [xray(-1, sex="M")])
    assert not result.pairs and "two persons" in reasons(result)
    assert pair([ct(sex="F")], [xray(-1, sex="")]).pairs == {0: 0}


@pytest.mark.parametrize("view", ["lateral", "other"])
def test_a_patient_with_only_a_lateral_is_listed_for_each_ct(view):
    xrays = [xray(-1, view=view), xray(-1, patient="OTHER")]
    result = pair([ct(), ct(patient="OTHER")], xrays)
    assert result.pairs == {1: 1}
    assert result.reasons == {0: "the only X-ray is a lateral or oblique; assign it in pairs="}
    assert not pair([ct()], [xray(-1), xrays[0]]).reasons


def test_images_without_patient_id_are_not_paired():
    result = pair([ct(patient="")], [xray(-1, patient="")])
    assert not result.pairs and not result.reasons


def test_reasons_hold_no_identifier():
    cases = [
        ([ct()], [xray(-2), xray(-2)]),
        ([ct(), ct(hours=1)], [xray(-2)]),
        ([ct()], [xray(-60)]),
        ([ct(sex="F")], [xray(-1, sex="M")]),
        ([ct(hours=None)], [xray(-1)]),
    ]
    for cts, xrays in cases:
        found = pair(cts, xrays)
        assert found.reasons and SECRET not in reasons(found) and "2019" not in reasons(found)


def test_a_table_of_two_pseudonyms_links_patients_paired_by_time(tmp_path):
    cts = [ct("CT-1"), ct("CT-2")]
    xrays = [xray(-9, "X-1"), xray(-2, "X-1"), xray(-1, "X-2"), xray(-0.5, "CT-1")]
    path = table(tmp_path, "CT-1,X-1", "CT-2,X-2")
    assert pair(cts, xrays, path).pairs == {0: 1, 1: 2}
    late = pair(cts, [xray(-90, "X-1")], table(tmp_path, "CT-1,X-1"))
    assert not late.pairs and "90 hours" in reasons(late)


@pytest.mark.parametrize("row", ["ACC7,xray_b.png", "1.2.77,xray_b", "CT-1,b/xray_b.png", "CT-1,/src/b/xray_b.png"])
def test_a_table_may_name_an_accession_a_uid_a_patient_or_a_file(tmp_path, row):
    cts = [ct("CT-1", accession="ACC7", study_uid="1.2.77")]
    xrays = [xray(None, "", view="", path="/src/a/xray_a.png"), xray(None, "", view="", path="/src/b/xray_b.png")]
    result = pair(cts, xrays, table(tmp_path, row))
    assert result.pairs == {0: 1} and np.isnan(result.hours[0]) and not result.reasons


def test_a_table_assigns_views_and_overrides_hours_and_laterals(tmp_path):
    cts, xrays = [ct(accession="A1")], [xray(-400, accession="A2", view="lateral")]
    result = pair(cts, xrays, table(tmp_path, "A1,A2,ap", header="ct,xray,view"))
    assert result.pairs == {0: 0} and result.views == {0: "AP"} and result.hours == {0: 400.0}


@pytest.mark.parametrize(
    ("rows", "word"),
    [
        (["A1,nobody"], "row 2, xray names nothing"),
        (["nobody,A2"], "row 2, ct names nothing"),
        (["A1,"], "row 2 has no xray"),
        (["A1,twice"], "names 2 images"),
        (["A1,A2", "A1,A3"], "row 3 pairs a CT or an X-ray a second time"),
        (["A1,A2", "B1,A2"], "row 3 pairs a CT or an X-ray a second time"),
        (["A1,A2,sideways"], "neither PA nor AP"),
    ],
)
def test_invalid_rows_of_a_table_are_refused_by_number(tmp_path, rows, word):
    cts = [ct("p", accession="A1"), ct("q", accession="B1")]
    xrays = [xray(-1, "p", accession="A2"), xray(-2, "p", accession="A3"),
             xray(-3, "q", accession="twice"), xray(-4, "q", accession="twice")]  # fmt: skip
    with pytest.raises(UserError, match=word):
        pair(cts, xrays, table(tmp_path, *rows, header="ct,xray,view"))
    with pytest.raises(UserError, match="no column xray"):
        pair(cts, xrays, table(tmp_path, "A1", header="ct"))


def test_the_xray_beside_a_nifti_file_belongs_to_it():
    xrays = [xray(None, "", view="", path="/src/a.png"), xray(None, "", view="", path="/src/b.png")]
    assert pair([ct("", hours=None, xray=Path("/src/b.png"))], xrays).pairs == {0: 1}


def test_ten_thousand_xrays_are_paired_in_seconds():
    cts = [ct(f"P{i}") for i in range(5000)]
    xrays = [xray(-k, f"P{i}") for i in range(5000) for k in (1, 3)]
    result = pair(cts, xrays)
    assert result.pairs == {i: 2 * i for i in range(5000)}
