"""Which pseudonyms are one patient: CTs with the same X-ray patient, and copies of one scan."""

from collections.abc import Hashable, Iterable, Sequence

from scipy.cluster.hierarchy import DisjointSet


def merge_patients(names: Sequence[str], links: Iterable[tuple[str, Hashable]]) -> list[str]:
    """For each name the alphabetically first of all names of its patient; links are transitive.

    A patient with a single name keeps it, so that data prepared before keep their patients.

    Args:
        names: patient of each case; may repeat.
        links: a name and what it shares with other names, such as the patient of its X-ray. Both are separate name
            spaces: patient 7 of the CTs is patient 7 of the X-rays only where a link says so.
    """
    groups = DisjointSet({("name", name) for name in names})
    for name, shared in links:
        for element in (("name", name), ("shared", shared)):
            groups.add(element)
        groups.merge(("name", name), ("shared", shared))
    first: dict[Hashable, str] = {}
    for name in sorted(names):
        first.setdefault(groups[("name", name)], name)
    return [first[groups[("name", name)]] for name in names]
