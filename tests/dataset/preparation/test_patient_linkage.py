"""Linked names become one patient, transitively; CT and X-ray names are separate."""

from itertools import permutations

from dataset.preparation.patient_linkage import merge_patients


def test_names_that_share_something_are_one_person_in_every_order():
    links = [("C", "film 1"), ("B", "film 1"), ("B", "film 2"), ("A", "film 2"), ("D", "film 3")]
    for order in permutations(links):
        assert merge_patients(["A", "B", "C", "D", "C", "E"], order) == ["A", "A", "A", "D", "A", "E"]


def test_equal_numbers_of_ct_and_xray_are_no_link():
    assert merge_patients(["7", "8"], [("8", "7")]) == ["7", "8"]
