"""Linked names become one patient, transitively; CT and X-ray names are separate."""

from itertools import permutations

from dataset.manifest.patient_linkage import merge_patients


def test_linked_names_are_one_patient_in_every_order():
    links = [("C", "X-ray 1"), ("B", "X-ray 1"), ("B", "X-ray 2"), ("A", "X-ray 2"), ("D", "X-ray 3")]
    for order in permutations(links):
        assert merge_patients(["A", "B", "C", "D", "C", "E"], order) == ["A", "A", "A", "D", "A", "E"]


def test_equal_numbers_of_ct_and_xray_are_no_link():
    assert merge_patients(["7", "8"], [("8", "7")]) == ["7", "8"]
