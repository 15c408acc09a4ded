"""Merges names of one patient: CTs with the same X-ray patient, Patient ID or parents, and copies of one scan."""

from collections.abc import Hashable, Iterable, Sequence

from scipy.cluster.hierarchy import DisjointSet


def merge_patients(names: Sequence[Hashable], links: Iterable[tuple[Hashable, str]]) -> list:
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
    own = [sorted(name for kind, name in group if kind == "name") for group in groups.subsets()]
    first = {name: group[0] for group in own for name in group}
    return [first[name] for name in names]
