"""Names without a large language model: the phrase that captions agree on and that CLAP finds closest to the clips."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from ard.naming.namer import Concepts, Embed, Name, Namer

# Words that describe no sound: a phrase neither starts nor ends with one.
EMPTY_WORDS = frozenset("a an and are at be by for from in is it its of on or the to with".split())  # noqa: SIM905
LONGEST_PHRASE = 6

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_WORD_OR_MARK = re.compile(rf"{_WORD.pattern}|[^\w\s]")


class ConsensusNamer(Namer):
    """Name a feature by the phrase that most of its captions share and that CLAP finds closest to its clips.

    If equally many captions share two phrases, and one contains the other, the longer is kept because it says more. A
    phrase shared by fewer than half of the captions, or by only one of them, is not a consensus. This namer stands in
    for the paper's Llama-3-70B-Instruct.
    """

    def __call__(self, concepts: Concepts) -> list[Name]:
        """Name every feature."""
        assert concepts.embed is not None
        each = zip(concepts.captions, concepts.clips, strict=True)
        return [self._name(captions, clips, concepts.embed) for captions, clips in each]

    @property
    def choices(self) -> Mapping[str, Any]:
        """How it names features."""
        return {"namer": "consensus of the captions"}

    def _name(self, captions: Sequence[str], clips: Float[Tensor, "p d"], embed: Embed) -> Name:
        """Choose, among the phrases with the highest agreement, the one closest to the clips."""
        counts = Counter(phrase for caption in captions for phrase in phrases(caption))
        agreed = max(counts.values(), default=0)
        if agreed < max(2, len(captions) / 2):
            return Name(None, [], 0.0, "the captions agree on nothing")
        shared = longest(phrase for phrase, count in counts.items() if count == agreed)
        closeness = embed(shared) @ normalize(clips.sum(dim=0), dim=0)
        ranked = [shared[index] for index in closeness.argsort(descending=True, stable=True).tolist()]
        return Name(ranked[0], ranked[:8], agreed / len(captions))


def longest(shared: Iterable[str]) -> list[str]:
    """Return the phrases that are not part of another, in alphabetical order."""
    every = sorted(shared)
    return [phrase for phrase in every if not any(f" {phrase} " in f" {other} " for other in every if other != phrase)]


def phrases(caption: str) -> set[str]:
    """Return the runs of one to six words in a caption that neither start nor end with an empty word."""
    words = _WORD.findall(caption.lower())
    runs = (words[i:j] for i in range(len(words)) for j in range(i + 1, min(i + LONGEST_PHRASE, len(words)) + 1))
    return {" ".join(run) for run in runs if not EMPTY_WORDS & {run[0], run[-1]}}


def parts(caption: str) -> list[str]:
    """Return the phrases that a caption falls into where it is cut at its punctuation and empty words.

    Example:
        >>> from ard.naming.consensus import parts
        >>> parts("A man speaking in a sad voice, rain and wind.")
        ['man speaking', 'sad voice', 'rain', 'wind']
    """
    tokens = _WORD_OR_MARK.findall(caption.lower())
    ends = EMPTY_WORDS | {token for token in tokens if not token[0].isalnum()}
    runs = (" ".join(run) for is_end, run in groupby(tokens, ends.__contains__) if not is_end)
    return list(dict.fromkeys(runs))
