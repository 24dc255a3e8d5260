"""Print how figures vary over runs: ``python -m experiments.seeds runs/demo runs/demo-1 runs/demo-2``."""

import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ard.reports.tables import control_rows
from ard.run import Run

Key = tuple[int, str, str, str]  # table, method, where, metric

MEASURES = {
    "monosemanticity": {"mean_ms": "mean m of the top C", "halves_agreement": "rank correlation of m on two halves"},
    "label_auroc": {"share_found": "share of the labels for which some feature has an AUROC of 0.9 or more"},
    "stated_labels": {"share_stated": "share of the labels that some name states"},
    "probes": {"f1_k1": "F1 of a label by its best feature", "absorption": "absorption: its best feature is silent"},
    "detection": {"auroc": "AUROC of a name's similarity to an unseen clip, for whether the feature is active there"},
    "naming": {"distinct_share": "share of the concepts whose name no better concept has"},
    "seeds": {
        "come_back": "share of the concepts whose direction all other seeds have",
        "come_back_shuffled": "the same with coordinates shuffled",
        "name_comes_back": "share of the concepts whose name all other seeds have",
    },
}
"""What is in no table, or in Table 4 only, by evaluation and metric; here they count as table 0."""


def figures(run: Path) -> Iterator[tuple[Key, Mapping[str, Any]]]:
    """Yield every figure of a run's tables, and the measures of its own cell that are in none."""
    for path in sorted((run / "tables").glob("table*.json")):
        table = json.loads(path.read_text(encoding="utf-8"))
        for row in table["rows"]:
            for metric, figure in row.items():
                if metric != "paper" and isinstance(figure, Mapping):
                    yield (table["table"], row["method"], _where(row), metric), figure
    about = Run.load(run)
    for evaluation, metrics in MEASURES.items():
        results = about.results(evaluation, [about.layer], [about.expansion])
        rows = [row for result in results for row in result.rows]
        for row in (*rows, *control_rows(about, evaluation, [about.layer])):
            for metric in (metric for metric in metrics if metric in row.figures):
                where = _where({"layer": row.layer, "expansion": row.expansion})
                yield (0, row.method, where, metric), vars(row.figures[metric])


def _where(row: Mapping[str, Any]) -> str:
    if row.get("source"):
        return f"{row['source']} to {row['target']}"
    return f"l = {row['layer']}" + (f", e = {row['expansion']}" if row["expansion"] else "")


def main(runs: Sequence[str]) -> None:
    """Print one line a figure: its mean and its values, run by run."""
    of_runs = [{key: figure["value"] for key, figure in figures(Path(run))} for run in runs]
    print(f"| table | method | where | metric | mean | {' | '.join(runs)} |")  # noqa: T201
    print("| --- " * (5 + len(runs)) + "|")  # noqa: T201
    for key in sorted(set.intersection(*map(set, of_runs))):
        values = [of_run[key] for of_run in of_runs]
        cells = [*map(str, key), f"{statistics.mean(values):.2f}", *(f"{value:.2f}" for value in values)]
        print(f"| {' | '.join(cells)} |")  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
