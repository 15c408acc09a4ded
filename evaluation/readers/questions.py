"""The questions of a study, their choices, and their kind, which determines the analysis."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from common.errors import UserError

ORDINAL, IDENTITY, PE = "ordinal", "real_or_generated", "pe_confidence"
KINDS = (ORDINAL, IDENTITY, PE)
IDENTITIES = ("real", "generated")
RESERVED = ("reader", "position", "item", "seconds", "comment")


@dataclass(frozen=True)
class Question:
    """One question; an answer is the number of a choice, from 1, the worst, least or surest negative first."""

    name: str
    text: str
    kind: str
    choices: tuple[str, ...]

    def as_dict(self) -> dict:
        """Plain JSON for `study.json`."""
        return asdict(self) | {"choices": list(self.choices)}


def parse_questions(entries: Sequence[dict]) -> list[Question]:
    """Questions out of yaml or JSON.

    Raises:
        UserError: none at all, a key missing or unknown, a name twice, an unknown kind, too few choices, two
            questions of a kind that can be asked once.
    """
    if not entries:
        raise UserError("questions: none; give at least one with name, text, kind and choices")
    questions: list[Question] = []
    for entry in entries:
        keys = set(entry)
        if keys != {"name", "text", "kind", "choices"}:
            raise UserError(f"questions: {dict(entry)} has the keys {sorted(keys)}; give name, text, kind and choices")
        question = Question(
            str(entry["name"]), str(entry["text"]), str(entry["kind"]), tuple(str(c) for c in entry["choices"])
        )
        _check(question, questions)
        questions.append(question)
    return questions


def of_kind(questions: Sequence[Question], kind: str) -> list[Question]:
    """The questions of one kind, in order."""
    return [question for question in questions if question.kind == kind]


def _check(question: Question, before: list[Question]) -> None:
    name = question.name
    if not name.isidentifier() or name in RESERVED:
        raise UserError(f"questions: the name {name!r} cannot be a column; give a word that is none of {RESERVED}")
    if name in [other.name for other in before]:
        raise UserError(f"questions: {name} stands twice; names are the columns of the answers")
    if question.kind not in KINDS:
        raise UserError(f"questions: {name} has kind={question.kind}; choose {', '.join(KINDS)}")
    if question.kind == IDENTITY and question.choices != IDENTITIES:
        raise UserError(
            f"questions: {name} has choices={list(question.choices)}; of this kind they are real, generated"
        )
    if len(question.choices) < 2:
        raise UserError(f"questions: {name} has {len(question.choices)} choices; give at least 2")
    if question.kind != ORDINAL and of_kind(before, question.kind):
        raise UserError(f"questions: {name} is the second of kind {question.kind}; ask it once")
