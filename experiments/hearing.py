"""Put into docs/hearing.md what hears and what reads: ``python -m experiments.hearing runs/demo runs/demo-1 ...``.

What the page shows of the runs is read from their files into docs/hearing.json. Without a run its block is filled from
there as it is.
"""

import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ard.evaluation.hearing import CONDITIONS
from ard.results import Result, replacing, write_json
from ard.run import Run

DOCS = Path(__file__).parent.parent / "docs"
KEPT, PAGE = DOCS / "hearing.json", DOCS / "hearing.md"
BLOCK = re.compile(r"<!-- hearing -->\n.*?<!-- end -->", re.DOTALL)
DIGITS = 4  # kept of a figure; the page shows two
INDEX = ("hearing", "hearing_low", "hearing_high")


def collect(folders: Sequence[Path]) -> dict[str, Any]:
    """Read the figures of runs, and of the first one the concepts that hear least."""
    runs = [Run.load(folder) for folder in folders]
    return {"runs": [_run(run) for run in runs], "concepts": _least_hearing(runs[0])}


def _run(run: Run) -> dict[str, Any]:
    path = run.own.result_path("modality")
    result, saved = Result.load(path), json.loads(path.read_text(encoding="utf-8"))
    own, shuffled = ({name: _rounded(of) for name, of in row["figures"].items()} for row in saved["rows"])
    about = {"preset": run.preset, "seed": run.seed, "layer": run.layer, "version": saved["version"]}
    num_pairs = result.choices["num_pairs"]
    return {**about, "num_pairs": num_pairs, "own": own, "shuffled": shuffled["hearing"], **result.details}


def _rounded(figure: Mapping[str, Any]) -> list[float | None]:
    return [_short(figure[part]) for part in ("value", "low", "high")]


def _short(value: Any) -> Any:
    return round(value, DIGITS) if isinstance(value, float) else value


def _least_hearing(run: Run, most: int = 5) -> list[dict[str, Any]]:
    """Return the concepts with the lowest index."""
    rows = [row for row in run.own.rows("modality") if not math.isnan(row["hearing"])]
    lowest = sorted(rows, key=lambda row: (row["hearing"], row["feature"]))[:most]
    return [
        {name: _short(row[name]) for name in ("feature", "name", "contradicts", *CONDITIONS, *INDEX)} for row in lowest
    ]


def block(kept: Mapping[str, Any]) -> str:
    """Return the page's block: a row a run, then the concepts that hear least."""
    heads = ["run", "layer", "concepts", "pairs each", "neither", "`hearing`", "`hearing_shuffled`", "`audio_wins`"]
    rows = [[*heads, "hear", "read"]]
    for run in kept["runs"]:
        own = run["own"]
        shares = (f"{own[name][0]:.0%}" for name in ("share_hearing", "share_reading"))
        figures = map(_figure, (own["hearing"], run["shuffled"], own["audio_wins"]))
        counts = (str(run[name]) for name in ("layer", "num_concepts", "num_pairs", "num_neither"))
        rows.append([f"{run['preset']}, seed {run['seed']}", *counts, *figures, *shares])
    least = [["name", "contradicted by", *(f"`{name}`" for name in (*CONDITIONS, "hearing"))]]
    for concept in kept["concepts"]:
        activities, index = (f"{concept[name]:.2f}" for name in CONDITIONS), _figure([concept[name] for name in INDEX])
        least.append([concept["name"], concept["contradicts"] or "–", *activities, index])
    said = (
        "`hear` and `read` are the shares of concepts whose whole interval is on one side of one half. Means are over "
        "the concepts that have an index, and `neither` counts those without. Of the first run, the concepts that hear "
        "least:"
    )
    return "\n\n".join((_table(rows), said, _table(least)))


def _figure(figure: Sequence[float | None]) -> str:
    value, low, high = figure
    if value is None:
        return "–"
    return f"{value:.2f}" if low is None else f"{value:.2f} [{low:.2f}, {high:.2f}]"


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *others = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *others))


def page(text: str, kept: Mapping[str, Any]) -> str:
    """Return the page with its block filled."""
    return BLOCK.sub(lambda _: f"<!-- hearing -->\n\n{block(kept)}\n\n<!-- end -->", text)


if __name__ == "__main__":
    if sys.argv[1:]:
        write_json(KEPT, collect(list(map(Path, sys.argv[1:]))))
    filled = page(PAGE.read_text(encoding="utf-8"), json.loads(KEPT.read_text(encoding="utf-8")))
    with replacing(PAGE) as partial:
        partial.write_text(filled, encoding="utf-8")
