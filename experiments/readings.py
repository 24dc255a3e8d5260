"""Print Table 1 of a run under every other reading of the paper: `python -m experiments.readings runs/demo`.

The scores that the run keeps serve all readings; each changes one thing. The readings of `Rand. Rep.` (where its
clips are drawn from, and if L^k is drawn too) change the names and are options of the run itself.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ard.embedding import load_clap
from ard.evaluation import MatchLabels, MatchReading
from ard.evaluation.scores import read_labelled
from ard.run import Run

METHODS = ("Poly. Feats.", "Rand. Rep.", "Mean Act.", "Coverage", "AR&D", "AR&D, names shuffled")


class Other(NamedTuple):
    """A reading: the words for it, and what it changes of the run's own."""

    words: str
    reading: Mapping[str, Any] = {}
    options: Mapping[str, Any] = {}


OTHERS = (
    Other("as in the table"),
    Other("macro average over clips", {"average": "macro"}),
    Other("greedy assignment", {"assignment": "greedy"}),
    Other("threshold before the assignment", {"threshold": "before"}),
    Other("gamma .6", {"gamma": 0.6}),
    Other("gamma .8", {"gamma": 0.8}),
    Other("all names at once, with doubles", {"scope": "vocabulary"}),
    Other("all distinct names at once", {"scope": "distinct"}),
    Other("active from any score above 0", options={"activity": 0.0, "active_by": "share"}),
    Other("active from half the weakest clip in H^k on", options={"activity": 0.5, "active_by": "share"}),
    Other("active from the weakest clip in H^k on", options={"activity": 1.0, "active_by": "share"}),
    Other("active above its .95 quantile", options={"activity": 0.95, "active_by": "quantile"}),
    Other("the 5 concepts of highest score", options={"activity": 5.0, "active_by": "top"}),
    Other("mAP summed at matches, over references", {"average_precision": "references"}),
    Other("mAP averaged over matches", {"average_precision": "matches"}),
    Other("mAP pooled over clips", {"average_precision": "pooled"}),
    Other("mAP over labels", {"average_precision": "classes"}),
)


def measure(folder: Path, others: Sequence[Other] = OTHERS) -> list[dict[str, tuple[float, float]]]:
    """Return F1 and mAP of every method under each reading."""
    run = Run.load(folder)
    embed = load_clap(run.fact("clap")).text
    measured: list[dict[str, tuple[float, float]]] = [{} for _ in others]
    for cell in (run.cell(run.layer, None), run.own):
        labelled, probing = read_labelled(cell, "eval"), read_labelled(cell, "probe")
        assert labelled is not None
        for other, of_reading in zip(others, measured, strict=True):
            match = MatchLabels(
                reading=MatchReading(**{**run.fact("matching"), **other.reading}),
                seed=run.seed,
                result="matching_reading",  # not the run's own, whose files stay as they are
                **other.options,
            )
            for row in match.match(cell, labelled, embed, probing).rows:
                of_reading[row.method] = (row.figures["f1"].value, row.figures["map"].value)
    return measured


def render(readings: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Return F1 and mAP by reading and method as a Markdown table, the best of the methods in bold."""
    lines = [f"| {' | '.join(('F1 and mAP', *METHODS))} |", "| --- " * (1 + len(METHODS)) + "|"]
    for words, of_reading in readings.items():
        best = [max(of_reading[method][i] for method in METHODS) for i in range(2)]
        cells = [
            " ".join(f"**{x:.2f}**" if x == most else f"{x:.2f}" for x, most in zip(of_reading[m], best, strict=True))
            for m in METHODS
        ]
        lines.append(f"| {' | '.join((words, *cells))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    measured = zip(OTHERS, measure(Path(sys.argv[1])), strict=True)
    print(render({other.words: of_reading for other, of_reading in measured}))  # noqa: T201
