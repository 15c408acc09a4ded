"""Which pseudonyms are one person: joined where CTs share the patient of an X-ray, or are the very same scan."""

from collections.abc import Hashable, Iterable, Sequence
from typing import TypeVar

Name = TypeVar("Name", bound=Hashable)


class People:
    """Names that stand for one person, joined pair by pair; joining is transitive."""

    def __init__(self):
        self._above: dict[Hashable, Hashable] = {}

    def root(self, name: Hashable) -> Hashable:
        """The name that stands for all that were joined with this one."""
        while self._above.setdefault(name, name) != name:
            name = self._above[name]
        return name

    def join(self, one: Hashable, other: Hashable) -> None:
        """Two names of one person."""
        self._above[self.root(one)] = self.root(other)


def one_name_each(names: Sequence[str], links: Iterable[tuple[str, Name]]) -> list[str]:
    """For each name the first, in the order of the alphabet, of all names that its person goes by.

    A person without a second name keeps the one there is, so that a set prepared before keeps its patients.

    Args:
        names: of the persons, one a case; the same may stand there often.
        links: a name and what it shares with others, such as the patient of its X-ray. Names and what they share
            are two spaces: patient 7 of the CTs and patient 7 of the X-rays are one person only where a link says so.
    """
    people = People()
    for name, shared in links:
        people.join(("name", name), ("shared", shared))
    first: dict[Hashable, str] = {}
    for name in sorted(names):
        first.setdefault(people.root(("name", name)), name)
    return [first[people.root(("name", name))] for name in names]
