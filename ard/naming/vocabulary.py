"""Names from a list of phrases: those that CLAP finds in a concept's clips and not in random ones."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ard.naming.contrast import MostAlike, Phrase, phrases_by_contrast
from ard.naming.namer import Concepts, Name, Namer
from ard.types import UserError

SHIPPED = Path(__file__).parent / "vocabularies"
LONGEST_PHRASE = 100  # characters


class VocabularyNamer(Namer):
    """Name a feature by the phrases of a list that CLAP finds in its H^k and not in random clips.

    A phrase is weighed by its contrast: by how many standard deviations its mean cosine to the clips of H^k is above
    its mean cosine to all clips of the probing set (:func:`~ard.naming.contrast.contrast`). Cosine alone favours
    phrases that are close to everything. The phrase of the highest contrast names the feature if as high a one is
    rare, over all phrases, among random lists of p clips, and if it is found in at least two clips; otherwise there is
    no name. A further phrase is added if the clips that the ones before it leave out need it, and it passes the same
    test there (:func:`~ard.naming.contrast.phrases_by_contrast`).

    Args:
        vocabulary: a list that comes with ard (``audioset``, ``fsd50k``, ``music``, ``voices``), or a text file with
            one phrase a line; empty lines and those that begin with ``#`` do not count.
        rate: share of random lists of p clips that would get a name: the family-wise p-value up to which a phrase
            counts as found.
        seed: seed of the random lists.
    """

    needs = ("embeddings",)

    def __init__(self, vocabulary: str = "audioset", *, rate: float = 0.05, seed: int = 0) -> None:
        self.vocabulary, self.rate, self.seed = vocabulary, rate, seed

    @cached_property
    def phrases(self) -> list[str]:
        """The phrases of the list."""
        return read_vocabulary(self.vocabulary)

    @property
    def made_from(self) -> str:
        """The list."""
        return f"a vocabulary: {self.vocabulary}"

    @property
    def choices(self) -> Mapping[str, Any]:
        """How it names features."""
        return {
            "namer": "vocabulary",
            "vocabulary": self.vocabulary,
            "num_phrases": len(self.phrases),
            "contrast": "(mean cosine to H^k - mean to all clips) / standard deviation over all clips",
            "chance": "highest contrast over all phrases, among random lists of p clips",
            "rate": self.rate,
        }

    def check(self) -> None:
        """Read the list."""
        if not 0 < self.rate < 1:
            raise UserError(f"rate {self.rate} of a vocabulary is out of range: give a share between 0 and 1")
        _ = self.phrases

    def __call__(self, concepts: Concepts) -> list[Name]:
        """Name every feature."""
        assert concepts.embed is not None
        generator = torch.Generator().manual_seed(self.seed)
        alike = phrases_by_contrast(
            concepts.embed(self.phrases), concepts.embeddings, concepts.top_ids, self.rate, generator=generator
        )
        return [self._name(of_concept, concepts.top_ids.shape[1]) for of_concept in alike]

    def _name(self, alike: MostAlike, p: int) -> Name:
        candidates = [self.phrases[row] for row in alike.ranked]
        support = [self._support(phrase, p) for phrase in alike.passed or alike.failed]
        if not alike.passed:
            beats_chance = alike.failed[0].p_value <= self.rate
            why = "no phrase that stands out is in two clips" if beats_chance else "no phrase stands out"
            return Name(None, candidates, float("nan"), f"{why}: at best {support[0]}")
        return Name.joined([self.phrases[phrase.row] for phrase in alike.passed], support, candidates)

    def _support(self, phrase: Phrase, p: int) -> str:
        text, contrast, p_value = self.phrases[phrase.row], phrase.contrast, phrase.p_value
        return f"{text} in {phrase.num_clips} of {p} clips (contrast {contrast:.1f}, p {p_value:.2g})"


def read_vocabulary(name: str) -> list[str]:
    """Read a list of phrases, each once, in their order; words that differ in case alone are the same phrase.

    Args:
        name: a list that comes with ard, or the path of a text file.

    Raises:
        UserError: if there is no such list, or it is not one phrase a line.
    """
    shipped = sorted(path.stem for path in SHIPPED.glob("*.txt"))
    path = SHIPPED / f"{name}.txt" if name in shipped else Path(name)
    try:
        lines = path.read_bytes().decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(
            f"vocabulary {name!r} is not UTF-8 text ({error.reason} at byte {error.start}): save it as UTF-8"
        ) from error
    except OSError as error:
        raise UserError(
            f"vocabulary {name!r} cannot be read ({error.strerror}): choose one of {shipped}, or give a text file with "
            "one phrase a line"
        ) from error
    phrases: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        phrase = " ".join(line.split())
        if not phrase or phrase.startswith("#"):
            continue
        if len(phrase) > LONGEST_PHRASE or not phrase.isprintable():
            raise UserError(
                f"line {number} of vocabulary {name!r} is no phrase ({phrase[:40]!r}): give one of at most "
                f"{LONGEST_PHRASE} characters a line"
            )
        phrases.setdefault(phrase.casefold(), phrase)
    if not phrases:
        raise UserError(f"vocabulary {name!r} has no phrase: give one a line")
    return list(phrases.values())
