"""Merges pseudonyms of one patient: CTs with the same X-ray patient, and copies of one scan."""

from collections.abc import Iterable, Sequence

from scipy.cluster.hierarchy import DisjointSet


def merge_patients(names: Sequence[str], links: Iterable[tuple[str, str]]) -> list[str]:
    """For each name the alphabetically first of all names of its patient; links are transitive.

    A patient with a single name keeps it, so that data prepared before keep their patients.

    Args:
        names: patient of each case; may repeat.
        links: a name and what it shares with other names, such as the patient of its X-ray. Both are separate name
            spaces: patient 7 of the CTs is patient 7 of the X-rays only where a link connects them.
    """
    groups = DisjointSet({("name", name) for name in names})
    for name, shared in links:
        groups.add(("shared", shared))
        groups.merge(("name", name), ("shared", shared))
    return [min(other for kind, other in groups.subset(("name", name)) if kind == "name") for name in names]
