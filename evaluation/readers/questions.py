"""The questions of a study, their choices, and their kind, which determines the analysis."""

from collections.abc import Sequence
from dataclasses import dataclass

from common.errors import UserError

ORDINAL, IDENTITY, PE = "ordinal", "real_or_generated", "pe_confidence"
KINDS = (ORDINAL, IDENTITY, PE)
IDENTITIES = ("real", "generated")
RESERVED = ("reader", "position", "item", "seconds", "comment")  # columns of the answers
RESERVED += ("reading", "arm", "case", "patient", "label")  # added by the analysis


@dataclass(frozen=True)
class Question:
    """One question; an answer is the number of a choice, from 1, the worst, least or surest negative first."""

    name: str
    text: str
    kind: str
    choices: tuple[str, ...]


def parse_questions(entries: Sequence[dict]) -> list[Question]:
    """Questions out of yaml or JSON.

    Raises UserError without a question, for a missing or unknown key, a repeated name, an unknown kind, too few
    choices, and two questions of a kind that may be asked once.
    """
    if not entries:
        raise UserError("questions: none; give at least one with name, text, kind and choices")
    questions: list[Question] = []
    for entry in entries:
        if set(entry) != {"name", "text", "kind", "choices"}:
            found = f"{dict(entry)} has the keys {sorted(entry)}"
            raise UserError(f"questions: {found}; give name, text, kind and choices")
        name, kind, choices = str(entry["name"]), str(entry["kind"]), tuple(str(c) for c in entry["choices"])
        if not name.isidentifier() or name in RESERVED:
            raise UserError(f"questions: the name {name!r} cannot be a column; give a word that is none of {RESERVED}")
        if name in [other.name for other in questions]:
            raise UserError(f"questions: two have the name {name}; names are the columns of the answers")
        if kind not in KINDS:
            raise UserError(f"questions: {name} has kind={kind}; choose {', '.join(KINDS)}")
        if kind == IDENTITY and choices != IDENTITIES:
            raise UserError(f"questions: {name} has choices={list(choices)}; of this kind they are real, generated")
        if len(choices) < 2:
            raise UserError(f"questions: {name} has {len(choices)} choices; give at least 2")
        if kind != ORDINAL and kind in [other.kind for other in questions]:
            raise UserError(f"questions: {name} is the second of kind {kind}; ask it once")
        questions.append(Question(name, str(entry["text"]), kind, choices))
    return questions
