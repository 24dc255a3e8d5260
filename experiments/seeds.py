"""Print the spread of figures over runs: ``python -m experiments.seeds runs/demo runs/demo-1 runs/demo-2``."""

import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

Key = tuple[int, str, str, str]  # table, method, where, metric


def figures(run: Path) -> Iterator[tuple[Key, float]]:
    """Yield every figure of a run's tables, the share of labels found, and the mean m of the selected features."""
    for path in sorted((run / "tables").glob("table*.json")):
        table = json.loads(path.read_text(encoding="utf-8"))
        for row in table["rows"]:
            for metric, figure in row.items():
                if metric != "paper" and isinstance(figure, Mapping):
                    yield (table["table"], row["method"], _where(row), metric), figure["value"]
    for evaluation, metric in (("label_auroc", "share_found"), ("monosemanticity", "mean_ms")):  # in no table
        for path in sorted(run.glob(f"layer-*/*/{evaluation}.json")):
            (row,) = json.loads(path.read_text(encoding="utf-8"))["rows"]
            yield (0, row["method"], _where(row), metric), row["figures"][metric]["value"]


def _where(row: Mapping[str, Any]) -> str:
    if row.get("source"):
        return f"{row['source']} to {row['target']}"
    return f"l = {row['layer']}" + (f", e = {row['expansion']}" if row["expansion"] else "")


def main(runs: Sequence[str]) -> None:
    """Print one line a figure: its mean and its values, run by run."""
    found = [dict(figures(Path(run))) for run in runs]
    print(f"| table | method | where | metric | mean | {' | '.join(runs)} |")  # noqa: T201
    print("| --- " * (5 + len(runs)) + "|")  # noqa: T201
    for key in sorted(set.intersection(*map(set, found))):
        values = [of_run[key] for of_run in found]
        cells = [*map(str, key), f"{statistics.mean(values):.2f}", *(f"{value:.2f}" for value in values)]
        print(f"| {' | '.join(cells)} |")  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
