"""Put the tests of names into docs/names.md: ``python -m experiments.checks runs/demo runs/demo-1 runs/real-0``.

The folders are those of finished runs. Their figures are read from their files into docs/names.json, and from there
into the page. The names that fail worst stand beside what is heard in their clips, for a reader to judge.
"""

import json
import math
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ard.activations import read_clips_metadata
from ard.evaluation.axes import AXES
from ard.probing import read_scores
from ard.results import Result, Row, replacing, write_json
from ard.run import RAW_METHODS, Cell, Run
from experiments.results import ROOT, fill
from experiments.tables import grid

KEPT, PAGE = ROOT / "docs" / "names.json", ROOT / "docs" / "names.md"
FIGURES = (*AXES, "average_precision", "score", "share_pass")
COLUMNS = {
    "responsiveness": "responsive",
    "purity": "pure",
    "sensitivity": "sensitive",
    "intruder": "against near names",
    "score": "score",
    "share_pass": "pass",
}
TIMES = {
    "auroc": "labels: AUROC in time",
    "iou": "overlap (IoU)",
    "onsets_met": "onsets met",
    "lag_ms": "lag, ms",
    "concepts_auroc": "concepts: AUROC in time",
    "concepts_told": "told",
}
NUM_WORST = 10
NUM_CLIPS = 5  # unseen clips that are looked at: those in which a feature is most active


def collect(folders: Sequence[Path]) -> dict[str, Any]:
    """Read the figures of runs, and the worst names of the first."""
    runs = [Run.load(folder) for folder in folders]
    return {"runs": [_run(run) for run in runs], "worst": _worst(runs[0].own)}


def _run(run: Run) -> dict[str, Any]:
    own = run.own
    cells = [own, *run.controls(own.layer, own.expansion or 0), *(run.cell(own.layer, raw) for raw in RAW_METHODS)]
    measured = [(cell, result) for cell in cells if (result := cell.result("name_axes")) is not None]
    first = measured[0][1]
    synthetic = any(part.get("source") == "synthetic" for part in run.fact("audio").get("made", ()))
    return {
        "clips": "the synthetic corpus" if synthetic else "real recordings",
        "seed": run.seed,
        "k": run.fact("k"),
        "rows": [row for cell, result in measured for row in _rows(cell, result)],
        "times": [row for cell in cells if (timed := cell.result("timing")) is not None for row in _rows(cell, timed)],
        "details": first.details,
        "choices": first.choices,
        "seconds": {cell.label: round(result.wall_time_s, 1) for cell, result in measured},
    }


def _rows(cell: Cell, result: Result) -> Iterator[dict[str, Any]]:
    for row in result.rows:
        first = next(iter(row.figures.values()))
        yield {"method": row.method, "cell": cell.label, "figures": _figures(row), "n": first.n}


def _figures(row: Row) -> dict[str, list[float | None]]:
    return {
        name: [None if not math.isfinite(x) else round(x, 4) for x in (of.value, of.low, of.high)]
        for name, of in row.figures.items()
        if name in FIGURES or name in TIMES
    }


def _worst(cell: Cell) -> list[dict[str, Any]]:
    """Return the names of the lowest score, with the labels of the clips in which their features are most active."""
    rows = [row for row in cell.rows("axes") if row["passes"] is False]
    rows.sort(key=lambda row: (row["score"] if math.isfinite(row["score"]) else 0.0, row["purity"], row["feature"]))
    labels = {clip["id"]: clip.get("labels", ()) for clip in read_clips_metadata(cell.probe)}
    tops = {concept["feature"]: concept["top_ids"] for concept in cell.rows("concepts")}
    scores = read_scores(cell, cell.unseen)
    assert scores is not None
    unseen = read_clips_metadata(cell.splits[cell.unseen])
    worst = []
    for row in rows[:NUM_WORST]:
        clips, _, values = scores.of("ard", torch.tensor([row["feature"]]))
        active = clips[values.argsort(descending=True)][:NUM_CLIPS].tolist()
        worst.append(
            {
                "feature": row["feature"],
                "name": row["name"],
                "fails": row["fails"],
                "own": _counted(labels[clip] for clip in tops[row["feature"]]),
                "unseen": _counted(unseen[clip].get("labels", ()) for clip in active),
                "num_unseen": len(values),
            }
        )
    return worst


def _counted(labels_of_clips: Iterable[Sequence[str]]) -> str:
    """Return the labels of some clips with their counts, the most frequent first."""
    counts = Counter(label for labels in labels_of_clips for label in labels)
    return ", ".join(f"{label} {count}" for label, count in counts.most_common(6)) or "nothing"


def blocks(kept: Mapping[str, Any]) -> dict[str, str]:
    """Return the text of every block of the page."""
    runs = kept["runs"]
    return {
        "axes": axes(runs[0]),
        "passing": passing(runs),
        "ceiling": ceiling(runs[0]),
        "odd": "\n".join(odd(run) for run in runs),
        "worst": worst(kept["worst"]),
        "when": when(runs[0]),
        "spent": cost(runs[0]),
    }


def _pooled(rows: Sequence[Mapping[str, Any]], name: str) -> str:
    values = [row["figures"].get(name, [None])[0] for row in rows]
    told = [value for value in values if value is not None]
    if not told:
        return "–"
    if len(told) > 1:
        return f"{sum(told) / len(told):.2f} ({min(told):.2f} to {max(told):.2f})"
    value, low, high = rows[0]["figures"][name]
    return f"{value:.2f} [{low:.2f}, {high:.2f}]" if low is not None else f"{value:.2f}"


def _by_method(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    by: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by.setdefault(row["method"], []).append(row)
    return by


def axes(run: Mapping[str, Any]) -> str:
    """Return the table of axes: every method, and what names give that were shuffled."""
    lines = [["Names of", "concepts", *COLUMNS.values()]]
    for method, rows in _by_method(run["rows"]).items():
        if not any(word in method for word in ("by CLAP", "by labels")):
            n = sum(row["n"] for row in rows) // len(rows)
            lines.append([method, str(n), *(_pooled(rows, name) for name in COLUMNS)])
    return grid(lines)


def passing(runs: Sequence[Mapping[str, Any]]) -> str:
    """Return the share of names that pass, run by run, for AR&D and the dictionaries that it is compared with."""
    methods = [
        method
        for method in dict.fromkeys(row["method"] for run in runs for row in run["rows"])
        if any("share_pass" in row["figures"] for run in runs for row in _by_method(run["rows"]).get(method, ()))
    ]
    lines = [["Clips, seed, K", *methods]]
    for run in runs:
        by = _by_method(run["rows"])
        lines.append(
            [f"{run['clips']}, seed {run['seed']}, K {run['k']}"]
            + [_pooled(by[method], "share_pass") if method in by else "–" for method in methods]
        )
    return grid(lines)


def ceiling(run: Mapping[str, Any]) -> str:
    """Return the axes of AR&D by labels and by CLAP, and those of ideal features by CLAP."""
    lines = [["AR&D's names", *(COLUMNS[axis] for axis in AXES)]]
    for method, rows in _by_method(run["rows"]).items():
        if method.startswith("AR&D, by"):
            lines.append([method.removeprefix("AR&D, "), *(_pooled(rows, axis) for axis in AXES)])
    return grid(lines)


def odd(run: Mapping[str, Any]) -> str:
    """Say how often CLAP finds the odd one out."""
    found = run["details"]["odd_one_out"]
    if found["right"] is None:
        return f"- {run['clips']}, seed {run['seed']}: not asked, for want of a CLAP model with texts."
    return (
        f"- {run['clips']}, seed {run['seed']}: {found['right']:.2f} of the trials of {found['features']} features; "
        f"chance is {found['chance']:.2f}."
    )


def worst(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the names of the lowest score, with their clips and the reasons."""
    lines = [["Feature", "Name", "Labels of H^k", "Labels of the unseen clips where it is most active", "Why it fails"]]
    for row in rows:
        unseen = f"{row['unseen']} (active in {row['num_unseen']})"
        lines.append([str(row["feature"]), row["name"], row["own"], unseen, "; ".join(row["fails"])])
    return grid(lines)


def when(run: Mapping[str, Any]) -> str:
    """Return how well features tell when something is heard, and the same with events shifted in time."""
    lines = [["Features of", *TIMES.values()]]
    for method, rows in _by_method(run["times"]).items():
        lines.append([method, *(_pooled(rows, name) for name in TIMES)])
    return grid(lines)


def cost(run: Mapping[str, Any]) -> str:
    """Say how long the tests took."""
    seconds = run["seconds"]
    own = next(iter(seconds.values()))
    return (
        f"In this run they took {own:.1f} s for AR&D with its baselines, and {sum(seconds.values()):.0f} s for all "
        f"{len(seconds)} dictionaries."
    )


def main(folders: Sequence[str]) -> None:
    """Read the runs, if any are given, and fill the page."""
    if folders:
        write_json(KEPT, collect([Path(folder) for folder in folders]))
    made = blocks(json.loads(KEPT.read_text(encoding="utf-8")))
    with replacing(PAGE) as partial:
        partial.write_text(fill(PAGE.read_text(encoding="utf-8"), made), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
