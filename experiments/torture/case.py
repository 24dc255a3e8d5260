"""One thing that goes wrong at a user's desk."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Case(NamedTuple):
    """An input that has to end well: it works, or one clear line says what is wrong with it."""

    input: str  # what was tried, one short line, in words
    run: Callable[[Path], str]  # gets an empty scratch folder; returns what happened; raises if it falls short
    quick: bool = False  # also runs in `make test` (under ~1 s each)
