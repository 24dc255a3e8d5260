"""Put Table 3 of several seeds together: ``python -m experiments.steered runs/demo runs/demo-1 ...``.

The folders are those of ``make table3 SEEDS="1 2 3 4"``. What they show is read from their files into
docs/steered.json, from where ``python -m experiments.results`` puts it into the pages.
"""

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from ard.evaluation import pool_steering
from ard.reports import paper
from ard.results import OWN_METHOD, Result, write_json
from ard.run import Cell, Run
from experiments.bench.report import machine
from experiments.tables import grid

KEPT = Path(__file__).parent.parent / "docs" / "steered.json"
BY_EFFECT = f"{OWN_METHOD}{paper.BY_EFFECT}"
DIGITS = 4


def collect(folders: Sequence[Path]) -> dict[str, Any]:
    """Read the figures of runs."""
    runs = [Run.load(folder) for folder in folders]
    pooled = pool_steering(runs)
    assert pooled is not None
    return {
        "machine": machine().rpartition(";")[0],
        "runs": [_run(run) for run in runs],
        "claims": pooled.details["claims"],
    }


def _run(run: Run) -> dict[str, Any]:
    result = run.own.result("steering")
    assert result is not None
    tests = run.own.result("steering_differences")
    assert tests is not None
    return {
        "seed": run.seed,
        "num_draws": run.fact("num_draws"),
        "rows": list(_rows(run)),
        "left": {shift: dict(_left(task)) for shift, task in result.details["tasks"].items()},
        "settings": {shift: _settings(task) for shift, task in result.details["tasks"].items()},
        "p": {
            shift: {kind: task[kind]["p"] for kind in ("random_features", "random_directions")}
            for shift, task in result.details["tasks"].items()
        },
        "ranks": [list(rank) for rank in _ranks(run)],
        "diagnosis": {shift: task["diagnosis"] for shift, task in result.details["tasks"].items() if task["diagnosis"]},
        "forecast": {
            kind: of["spearman"] and round(of["spearman"], DIGITS)
            for kind, of in result.details["forecast"]["rank_correlation"].items()
        },
    }


def _ranks(run: Run) -> Iterator[tuple[Any, ...]]:
    """Return method, shift, our sensitivity and its p-value among each kind of draw, of all dictionaries with draws."""
    for cell in [run.own, *run.controls(run.layer, run.expansion)]:
        result = cell.result("steering")
        for shift, task in result.details["tasks"].items() if result else ():
            drawn = [task[kind] for kind in ("random_features", "random_directions") if kind in task]
            if drawn:
                yield (cell.method, shift, *map(_rounded, (drawn[0]["ours"]["value"], *(one["p"] for one in drawn))))


def _rows(run: Run) -> Iterator[list[Any]]:
    """Return method, shift, sensitivity and that at equal damage of every row; draws of a control one by one."""
    cells: list[Cell] = [run.own, run.cell(run.layer, "poly"), run.cell(run.layer, "half-waves")]
    for cell in [*cells, *run.controls(run.layer, run.expansion)]:
        result: Result | None = cell.result("steering")
        for row in result.rows if result else ():
            values = [row.figures[name].value if name in row.figures else None for name in MEASURES]
            yield [row.method, f"{row.source} to {row.target}", *map(_rounded, values)]


MEASURES = ("sensitivity", "sensitivity_at_equal_damage")


def _left(task: Mapping[str, Any]) -> Iterator[tuple[str, list[float | None]]]:
    """Return for each method the share of other answers kept, of sounds named, and AxBench's harmonic mean."""
    for name, of in {OWN_METHOD: task, **task["methods"]}.items():
        at = of["at_setting"]
        kept = [figure["value"] for figure in at["kept"] if figure["value"] is not None]
        named = at["named"]["value"] if "named" in at else None
        values = [mean(kept) if kept else None, named, at["axbench"]["overall"]["value"]]
        yield name.replace("steered", OWN_METHOD), [_rounded(value) for value in values]


def _settings(task: Mapping[str, Any]) -> dict[str, str]:
    chosen = task["chosen"]
    own = f"{len(chosen['features'])} features at {chosen['multiple']:g}"
    return {OWN_METHOD: own, **{n.replace("steered", OWN_METHOD): of["setting"] for n, of in task["methods"].items()}}


def _rounded(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else round(value, DIGITS)


def blocks(kept: Mapping[str, Any]) -> dict[str, str]:
    """Return what the pages show of docs/steered.json."""
    return {
        "steered": _over_seeds(kept, lambda row: row[2]) + "\n\n" + _with(kept),
        "damage": _over_seeds(kept, lambda row: row[3]) + "\n\n" + _what_is_left(kept),
        "claims": _claims(kept),
        "effect": _by_seed(kept),
        "ranks": _untrained(kept),
    }


def _over_seeds(kept: Mapping[str, Any], value: Callable[[Sequence[Any]], float | None]) -> str:
    """Return the mean over seeds of a figure by row and shift, from the lowest to the highest seed."""
    shifts = list(kept["runs"][0]["left"])
    found: dict[str, dict[str, list[float]]] = {}
    for run in kept["runs"]:
        of_run: dict[tuple[str, str], list[float]] = {}
        for row in run["rows"]:
            if (number := value(row)) is not None:
                of_run.setdefault((row[0], row[1]), []).append(number)
        for (method, shift), draws in of_run.items():
            found.setdefault(method, {}).setdefault(shift, []).append(mean(draws))
    in_all = set.intersection(*({row[0] for row in run["rows"]} for run in kept["runs"]))
    order = [method for method in paper.METHODS if method in found and method in in_all]
    return grid(
        [
            ["Method", *map(arrow, shifts)],
            *([method, *(_spread(found[method].get(shift, [])) for shift in shifts)] for method in order),
        ]
    )


def _with(kept: Mapping[str, Any]) -> str:
    seeds, draws = ", ".join(str(run["seed"]) for run in kept["runs"]), kept["runs"][0]["num_draws"]
    return (
        f"Means over the seeds {seeds}, from the lowest to the highest; {draws} draws of random features and of random "
        "directions each."
    )


def _what_is_left(kept: Mapping[str, Any]) -> str:
    """Return per method, over shifts and seeds, what is left at the chosen setting."""
    rows = [
        ["Method, at its own setting", "other answers kept", "other sounds still named", "AxBench, by rules (0 to 2)"]
    ]
    for method in kept["runs"][0]["left"][next(iter(kept["runs"][0]["left"]))]:
        columns = zip(*(of[method] for run in kept["runs"] for of in run["left"].values()), strict=True)
        rows.append([method, *(_spread([value for value in column if value is not None]) for column in columns)])
    return grid(rows)


def _claims(kept: Mapping[str, Any]) -> str:
    """Return in how many of the runs AR&D is above and below each row, by shift."""
    shifts = list(kept["runs"][0]["left"])
    counts = {(one["other"], f"{one['source']} to {one['target']}"): one for one in kept["claims"]}
    others = [method for method in paper.METHODS if any((method, shift) in counts for shift in shifts)]
    rows = [[f"AR&D above / below, of {len(kept['runs'])} seeds", *map(arrow, shifts)]]
    for other in others:
        cells = [counts.get((other, shift), {}) for shift in shifts]
        rows.append([other, *(f"{one.get('above', 0)} / {one.get('below', 0)}" if one else "–" for one in cells)])
    return grid(rows)


def _by_seed(kept: Mapping[str, Any]) -> str:
    """Return AR&D by names and by effect, seed by seed and shift by shift, with the rank among random features."""
    rows = [["Seed", "Shift", "AR&D", "set", "90% kept", "p, random features", "AR&D, by effect", "set", "90% kept"]]
    for run in kept["runs"]:
        figures = {(row[0], row[1]): row[2:] for row in run["rows"]}
        for shift, settings in run["settings"].items():
            own, by_effect = (figures.get((method, shift), [None, None]) for method in (OWN_METHOD, BY_EFFECT))
            p = run["p"][shift]["random_features"]
            rows.append(
                [
                    str(run["seed"]),
                    arrow(shift),
                    *(_number(own[0]), settings[OWN_METHOD], _number(own[1])),
                    _number(p),
                    *(_number(by_effect[0]), settings[BY_EFFECT], _number(by_effect[1])),
                ]
            )
    return grid(rows)


def _untrained(kept: Mapping[str, Any]) -> str:
    """Return the ranks of named features among random draws, beside those of a dictionary that was never trained."""
    rows = [["Seed", "Shift", "Dictionary", "turned", "p, random features", "p, random directions"]]
    for run in kept["runs"]:
        ranks = run.get("ranks", ())
        if len({method for method, *_ in ranks}) > 1:
            for shift in run["settings"]:
                of_shift = [(method, numbers) for method, of, *numbers in ranks if of == shift]
                rows += [[str(run["seed"]), arrow(shift), name, *map(_number, numbers)] for name, numbers in of_shift]
    return grid(rows)


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "–"
    return f"{mean(values):.2f} ({min(values):.2f} to {max(values):.2f})" if len(values) > 1 else f"{values[0]:.2f}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def arrow(words: str) -> str:
    """Return a shift as the tables write it."""
    source, _, target = words.partition(" to ")
    return f"{source.capitalize()} → {target.capitalize()}"


if __name__ == "__main__":
    write_json(KEPT, collect([Path(folder) for folder in sys.argv[1:]]))
