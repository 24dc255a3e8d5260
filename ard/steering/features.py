"""Which features stand for a concept: those whose names mean the same."""

import re
from typing import NamedTuple

from ard.embedding import Clap
from ard.monosemanticity import read_selections
from ard.naming import Chat, read_names
from ard.run import Cell

CHOICE_PROMPT = """\
Each line is the name of something that can be heard, behind its number.
{names}

Which of them say the same as "{concept}", or something that is a kind of it? Answer with their numbers only, the
closest first, with commas between them, or with the word none."""

_NUMBERS = re.compile(r"\d+(?:\s*,\s*\d+)*\.?")


class NamedFeature(NamedTuple):
    """A feature, its name, and the name's cosine with the concept in CLAP's space."""

    feature: int
    name: str
    cosine: float


class Found(NamedTuple):
    """Features by how well their names fit a concept, best first, and what ranked them."""

    features: list[NamedFeature]
    by: str


def features_by_name(cell: Cell, concept: str, clap: Clap, chat: Chat | None = None, shortlist: int = 40) -> Found:
    """Rank the named features of a dictionary by how close their names are to a concept.

    A feature that fires in none of the unseen clips on which names were tested (``detection.json``) is skipped: only a
    few probing clips support its name.

    Args:
        cell: the dictionary's cell.
        concept: words, such as ``speaking in a happy voice``.
        clap: ranks by the cosine of its text embeddings; of equal names the more monosemantic feature comes first.
        chat: an instruction model that picks from the best by CLAP. What it does not pick is left out. If its answer
            is not a list of their numbers, CLAP's ranking stands, and ``by`` says so.
        shortlist: how many names it is shown.
    """
    selection, names = read_selections(cell)["ard"][0], read_names(cell)["ard"][0]
    silent = _silent(cell)
    named = [
        (feature, name)
        for feature, name in zip(selection.features.tolist(), names, strict=True)
        if name is not None and feature not in silent
    ]
    if not named:
        return Found([], "nobody: no feature has a name")
    # Row by row: of a matrix product, the rows of equal names may differ in their last bits.
    cosine = (clap.text([name for _, name in named]) * clap.text([concept])).sum(dim=1)
    order = cosine.argsort(descending=True, stable=True).tolist()
    ranked = [NamedFeature(named[index][0], named[index][1], float(cosine[index])) for index in order]
    if chat is None:
        return Found(ranked, "CLAP text cosine")
    shown = ranked[:shortlist]
    lines = "\n".join(f"{number}. {feature.name}" for number, feature in enumerate(shown, 1))
    (reply,) = chat([CHOICE_PROMPT.format(names=lines, concept=concept)], "features")
    if reply.text is None:
        return Found(ranked, f"CLAP text cosine: {chat.model} gave no answer ({reply.reason})")
    picked = read_numbers(reply.text, len(shown))
    if picked is None:
        return Found(ranked, f"CLAP text cosine: the answer of {chat.model} could not be read")
    return Found([shown[number - 1] for number in picked], f"{chat.model}, of the {len(shown)} closest by CLAP")


def _silent(cell: Cell) -> set[int]:
    """Return the features that fire in no unseen clip; none where names were not tested."""
    if not cell.path("detection").is_file():
        return set()
    return {row["feature"] for row in cell.rows("detection") if row["n_active_unseen"] == 0}


def read_numbers(answer: str, most: int) -> list[int] | None:
    """Return the numbers from 1 to ``most`` that an answer lists, without repeats; None if it is anything else."""
    text = answer.strip()
    if re.fullmatch(r"none\.?", text, re.IGNORECASE):
        return []
    if not _NUMBERS.fullmatch(text):
        return None
    numbers = list(dict.fromkeys(int(number) for number in re.findall(r"\d+", text)))
    return numbers if all(1 <= number <= most for number in numbers) else None
