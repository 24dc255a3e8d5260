"""Put the figures of real recordings into docs/real.md: ``python -m experiments.real runs/real-0 runs/real-0-clap``.

The folders are those of `ard run --labels` on the same clips, with other seeds or embeddings. Their figures are read
from their files into docs/real.json, and from there into the page.
"""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ard.reports.gains import GAINS
from ard.reports.headline import above_chance, headline
from ard.results import replacing, write_json
from ard.run import Run
from experiments.bench.report import machine
from experiments.results import REAL as KEPT
from experiments.results import ROOT, fill, recordings, span
from experiments.tables import grid

PAGE = ROOT / "docs" / "real.md"
PARTS = ("trained", "untrained", "gain")
COMPARED = ("Untrained SAE", "Rand. Rep.", "Poly. Feats.", "Poly. Feats., half-waves", "Random tokens", "Mean Act.")


def collect(folders: Sequence[Path]) -> dict[str, Any]:
    """Read the figures of runs."""
    return {"machine": machine().rpartition(";")[0], "runs": [_run(Run.load(folder)) for folder in folders]}


def _run(run: Run) -> dict[str, Any]:
    matching, gain = run.own.result("matching"), run.own.result("gain")
    assert matching is not None
    assert gain is not None
    own = next(row for row in matching.rows if row.method == run.own.method)
    minus = {**gain.details["names_minus"], **matching.details["differences"][run.own.method]}
    clap, counted = run.fact("clap"), above_chance(run.own)
    assert counted is not None
    return {
        "seed": run.seed,
        "embedding": "none" if clap is None else str(clap).rpartition(":")[0] or str(clap),
        "k": run.fact("k"),
        "steps": run.fact("steps"),
        "num_clips": matching.details["num_clips"],
        "headline": headline(run),
        "above_chance": [counted.number, counted.of],
        "f1": _rounded(own.figures["f1"].value, own.figures["f1"].low, own.figures["f1"].high),
        "minus": {name: _rounded(*(minus[name]["f1"][part] for part in ("value", "low", "high"))) for name in COMPARED},
        "gains": {
            row.method: [*(_rounded(f.value, f.low, f.high) for f in (row.figures[part] for part in PARTS))]
            for row in gain.rows
            if row.method in GAINS
        },
    }


def _rounded(*numbers: float | None) -> list[float | None]:
    return [None if number is None or not math.isfinite(number) else round(number, 4) for number in numbers]


def table(runs: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of F1, that of gains, and the sentences that the runs begin with."""
    first = [f"- seed {run['seed']}, embedding {run['embedding']}: {' '.join(run['headline'])}" for run in runs]
    return "\n\n".join([recordings(runs, COMPARED), gains(runs), "\n".join(first)])


def gains(runs: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of what training gives, figure by figure."""
    named = [name for name in GAINS if any(name in run["gains"] for run in runs)]
    heads = ["figure", *(f"seed {run['seed']}, {run['embedding']}" for run in runs)]
    rows = [[GAINS[name], *(_gain(run["gains"].get(name)) for run in runs)] for name in named]
    return grid([heads, *rows])


def _gain(parts: Sequence[Sequence[float | None]] | None) -> str:
    if parts is None or parts[2][0] is None:
        return "–"
    trained, untrained, gain = parts
    return f"{span(trained[:1])}, untrained {span(untrained[:1])}: {span(gain, '+')}"


def main(folders: Sequence[str]) -> None:
    """Read the runs, if any are given, and fill the page."""
    if folders:
        write_json(KEPT, collect([Path(folder) for folder in folders]))
    kept = json.loads(KEPT.read_text(encoding="utf-8"))
    with replacing(PAGE) as partial:
        partial.write_text(fill(PAGE.read_text(encoding="utf-8"), {"real": table(kept["runs"])}), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
