"""Names from the labels of clips: those that a concept's clips have more often than chance explains."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from ard.naming.functional import Occurrence, over_represented
from ard.naming.namer import Concepts, Name, Namer
from ard.types import UserError

NUM_CANDIDATES = 8
LEAST_CLIPS = 2  # a label of a single clip says nothing of what clips have in common


class LabelNamer(Namer):
    """Name a feature by the labels that are over-represented in its H^k.

    That k of the p clips of H^k have a label which K of all N clips have is weighed by the hypergeometric test, with
    the false-discovery rate of Benjamini and Hochberg over all labels and all concepts named together
    (:func:`~ard.naming.functional.over_represented`). The most over-represented label that passes, and that two clips
    have, names the feature. A further one is added if at least half of the clips have it, or half of those that the
    labels before it leave out, two or more. Of two labels, such as ``Dog`` and ``Animal``, where all clips with the one
    have the other too, only the first is named.

    Clips without labels do not count, neither in H^k nor among all clips: nobody said what they are.

    Args:
        rate: false-discovery rate up to which a label counts as over-represented.
    """

    needs = ("labels",)
    made_from = "labels"

    def __init__(self, *, rate: float = 0.05) -> None:
        self.rate = rate

    @property
    def choices(self) -> Mapping[str, Any]:
        """How it names features."""
        return {
            "namer": "labels",
            "test": "hypergeometric; Benjamini-Hochberg over all labels and concepts",
            "rate": self.rate,
        }

    def check(self) -> None:
        """Refuse a rate that is none."""
        if not 0 < self.rate < 1:
            raise UserError(f"rate {self.rate} of the labels is out of range: give a share between 0 and 1")

    def __call__(self, concepts: Concepts) -> list[Name]:
        """Name every feature."""
        clips_with = defaultdict(set)
        for clip, labels in enumerate(concepts.labels):
            for label in labels:
                clips_with[label].add(clip)
        num_labelled = sum(map(bool, concepts.labels))
        tops = [[clip for clip in top if concepts.labels[clip]] for top in concepts.top_ids.tolist()]
        occurrences = over_represented(tops, concepts.labels)
        return [
            self._name(of_concept, set(top), clips_with, num_labelled)
            for of_concept, top in zip(occurrences, tops, strict=True)
        ]

    def _name(
        self, occurrences: Sequence[Occurrence], top: set[int], clips_with: Mapping[str, set[int]], num_labelled: int
    ) -> Name:
        """Choose among the labels of a concept's clips, the most over-represented first."""
        candidates = [_spelled(occurrence.label) for occurrence in occurrences[:NUM_CANDIDATES]]
        if not top:
            return Name(None, [], float("nan"), "none of its clips has a label")

        def supported(occurrence: Occurrence) -> str:
            of_top = f"{_spelled(occurrence.label)} in {occurrence.num_clips} of {len(top)} clips"
            return f"{of_top} ({occurrence.frequency} of {num_labelled} in all, q {occurrence.q_value:.2g})"

        chosen: list[Occurrence] = []
        left = top
        passed = [one for one in occurrences if one.q_value <= self.rate]
        for occurrence in (one for one in passed if one.num_clips >= LEAST_CLIPS):
            own, rest = top & clips_with[occurrence.label], left & clips_with[occurrence.label]
            is_needed = 2 * len(own) >= len(top) or (len(rest) >= 2 and 2 * len(rest) >= len(left))
            if not chosen or (is_needed and not any(_nested(clips_with, occurrence, other) for other in chosen)):
                chosen.append(occurrence)
                left = left - own
        if not chosen:
            why = "no over-represented label is in two clips" if passed else "no label is over-represented"
            return Name(None, candidates, float("nan"), f"{why}: at best {supported(occurrences[0])}")
        phrases = [_spelled(occurrence.label) for occurrence in chosen]
        return Name.joined(phrases, [supported(occurrence) for occurrence in chosen], candidates)


def _nested(clips_with: Mapping[str, set[int]], one: Occurrence, other: Occurrence) -> bool:
    """Return whether all clips with one of two labels have the other too."""
    clips, others = clips_with[one.label], clips_with[other.label]
    return clips <= others or others <= clips


def _spelled(label: str) -> str:
    return label.replace("_", " ")
