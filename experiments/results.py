"""Put measured figures into the pages: ``python -m experiments.results runs/demo runs/demo-1 runs/demo-2``.

Whatever the pages show of the runs, one or more, is read from their files into docs/results.json. From there it goes
into the blocks of the pages, each between ``<!-- its name -->`` and ``<!-- end -->``. The tables show the first run;
the others show how much a seed matters. Without a run the blocks are filled from docs/results.json as it is. What real
recordings give is taken from docs/real.json, and steering over several seeds from docs/steered.json.
"""

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from ard.plan import Plan, plan
from ard.presets import preset_files
from ard.reports import build_tables, paper
from ard.reports.gains import GAINS
from ard.reports.table import markdown, paper_text
from ard.results import Result, replacing, write_json
from ard.run import Run
from ard.steps import STEPS, TableNumber
from experiments import steered
from experiments.bench.report import machine
from experiments.named_features import found_features
from experiments.readings import METHODS, OTHERS, measure, render
from experiments.seeds import MEASURES, figures
from experiments.tables import cost, grid, printed

ROOT = Path(__file__).parent.parent
KEPT = ROOT / "docs" / "results.json"
REAL = ROOT / "docs" / "real.json"  # which experiments.real makes
PAGES = tuple(
    ROOT / page
    for page in (
        "README.md",
        "docs/results.md",
        "docs/run.md",
        "docs/steering.md",
        *(f"experiments/table{number}/README.md" for number in (1, 2, 3, 4)),
    )
)
BLOCK = re.compile(r"<!-- (?P<name>[a-z]+( \d)?) -->\n.*?<!-- end -->", re.DOTALL)
AGAINST = ("Untrained SAE", "Rand. Rep.", "Poly. Feats.")  # of the rows on real recordings
DIGITS = 4  # kept of a figure; the pages show two


class Entry(NamedTuple):
    """One figure of one run."""

    table: int
    method: str
    where: str
    metric: str
    value: float | None  # None where there was nothing to measure it on, as of the next two
    low: float | None
    high: float | None
    n: int


def collect(folders: Sequence[Path]) -> dict[str, Any]:
    """Read from the folders of runs what the pages show, the first run's tables among it."""
    readings = [
        {"reading": other.words, "figures": {method: _rounded(of_reading[method]) for method in METHODS}}
        for other, of_reading in zip(OTHERS, measure(folders[0]), strict=True)
    ]
    return {
        "machine": machine().rpartition(";")[0],
        "runs": [_run(Run.load(folder)) for folder in folders],
        "tables": {str(table.number): markdown(table).splitlines() for table in build_tables(folders[0])},
        "readings": readings,
    }


def _run(run: Run) -> dict[str, Any]:
    """Read one run: where it is from, its figures, and what steering chose."""
    scored = run.own.result_path("matching")
    saved = json.loads(scored.read_text(encoding="utf-8"))
    stated = Result.load(run.own.result_path("stated_labels")).details
    return {
        **{name: getattr(run, name) for name in ("preset", "seed", "layer", "expansion")},
        "num_selected": run.fact("num_selected"),
        "date": date.fromtimestamp(scored.stat().st_mtime).isoformat(),
        "version": saved["version"],
        "git_commit": saved["git_commit"],
        "stated_labels": {
            "missing": stated["missing"],
            "num_wrong": len(stated["wrong"]),
            "num_named": stated["num_named"],
        },
        "features": [
            {
                **{"target": found.target, "feature": found.feature, "name": found.name},
                "among_all": _rounded([found.among_all.value, found.among_all.low, found.among_all.high]),
                "among_voices": _rounded([found.among_voices.value, found.among_voices.low, found.among_voices.high]),
                "num_voices": found.num_voices,
            }
            for found in found_features(run)
        ],
        "gains": [
            [_line(row), row["verdict"], *_rounded([row["gain"][part] for part in ("value", "low", "high")])]
            for row in build_tables(run.folder, [0])[0].rows
        ],
        "figures": [
            (*key, *_rounded([figure[part] for part in ("value", "low", "high")]), figure["n"])
            for key, figure in figures(run.folder)
        ],
    }


def _rounded(values: Iterable[float | None]) -> list[float | None]:
    return [None if value is None else round(value, DIGITS) for value in values]


def entries(run: Mapping[str, Any]) -> list[Entry]:
    """Return the figures of a run of docs/results.json."""
    return [Entry(*figure) for figure in run["figures"]]


def blocks(kept: Mapping[str, Any]) -> dict[str, str]:
    """Return every block of the pages: of docs/results.json, the paper's figures, the plan of its preset, the steps."""
    made = {
        "summary": summary(kept),
        "run": provenance(kept),
        "readings": render({row["reading"]: row["figures"] for row in kept["readings"]}),
        "measures": measures(kept["runs"][0]),
        "seeds": seeds(kept["runs"]),
        "gains": gains(kept),
        "features": features(kept["runs"]),
        "recordings": recordings(json.loads(REAL.read_text(encoding="utf-8"))["runs"], AGAINST),
        "steps": steps(),
        **steered.blocks(json.loads(steered.KEPT.read_text(encoding="utf-8"))),
    }
    numbers: tuple[TableNumber, ...] = (1, 2, 3, 4)
    for number in numbers:
        made[f"table {number}"] = table(kept, number)
        made[f"paper {number}"] = printed(number)
        made[f"cost {number}"] = cost(number)
    return made


def recordings(runs: Sequence[Mapping[str, Any]], against: Sequence[str]) -> str:
    """Return what AR&D gives on real recordings, a row a run: its F1, less that of others, and what is above chance."""
    heads = ["seed", "embedding", "F1 of AR&D", *(f"minus {name}" for name in against), "above chance"]
    rows = [heads]
    for run in runs:
        number, of = run["above_chance"]
        minus = [span(run["minus"][name], "+") for name in against]
        counted = f"{number:,} of {of:,} ({number / of:.0%})"
        rows.append([str(run["seed"]), run["embedding"], span(run["f1"]), *minus, counted])
    return grid(rows)


def steps() -> str:
    """Return the steps of a run as they are written down, a row a step."""
    rows = [["Step", "Needs", "Makes", "For tables", "Runs", "Costly"]]
    for step in STEPS:
        goals = [str(goal) for goal in {**step.splits, **step.cells}]
        file = "–" if step.file is None else f"`{step.file}.yaml`"
        runs = file + (f": {', '.join(step.evaluators)}" if step.evaluators else "")
        needs, makes = ", ".join(step.needs) or "–", re.sub(r"[\w<>./-]*[/.][\w<>./-]*", r"`\g<0>`", step.makes)
        rows.append([f"`{step.name}`", needs, makes, ", ".join(goals), runs, "yes" if step.costly else "no"])
    return grid(rows)


@cache
def planned() -> Plan:
    """Return the plan of the paper's preset on one H100 with 8 cores and a local disk."""
    facts = preset_files("paper", {}, ("extract", "fit", "test", "steer"))
    return plan(facts, gpu="H100", cores=8, disk=ROOT)


def summary(kept: Mapping[str, Any]) -> str:
    """Return Table 1 in short: F1, mAP and the highest m at the run's own layer, the paper's beside them."""
    run = kept["runs"][0]
    shown: dict[str, dict[str, Entry]] = {}
    for entry in entries(run):
        own = entry.where.split(",")[0] == f"l = {run['layer']}"
        if entry.table == 1 and own and entry.method != paper.CEILING:
            shown.setdefault(entry.method, {})[entry.metric] = entry
    heads = {"f1": "F1", "map": "mAP", "ms": "highest m"}
    rows = [["Method", *(cell for head in heads.values() for cell in (head, "paper"))]]
    for method, by_metric in shown.items():
        theirs = paper.TABLE1.get((method, paper.LAYER), {})
        cells = ((_figure(by_metric.get(metric)), paper_text(theirs.get(metric))) for metric in heads)
        rows.append([method, *(cell for pair in cells for cell in pair)])
    return f"{grid(rows)}\n\n{_from(run).capitalize()}; 95 % intervals."


def provenance(kept: Mapping[str, Any]) -> str:
    """Say what was run, when, where and by which commit, and what holds for every table."""
    seeds = ", ".join(str(run["seed"]) for run in kept["runs"])
    return "\n".join(
        [
            f"- Tables 1 to 4: {_from(kept['runs'][0])}. Runs in this page: seed {seeds}. {kept['machine']}.",
            *(f"- {note}" for note in _shared_notes(kept)),
        ]
    )


def _from(run: Mapping[str, Any]) -> str:
    commit = f", commit {run['git_commit'][:7]}" if run["git_commit"] else ""
    return f"preset {run['preset']}, seed {run['seed']}, {run['date']}, version {run['version']}{commit}"


def _notes(lines: Sequence[str]) -> list[str]:
    return [line.removeprefix("- ") for line in lines if line.startswith("- ")]


def _shared_notes(kept: Mapping[str, Any]) -> list[str]:
    """Return the notes that stand under every table of the run."""
    first, *others = (_notes(lines) for number, lines in kept["tables"].items() if number != "0")
    return [note for note in first if all(note in notes for notes in others)]


def table(kept: Mapping[str, Any], number: int) -> str:
    """Return a table of the first run as its own files have it, less the notes that all tables share."""
    shared = {f"- {note}" for note in _shared_notes(kept)}
    return "\n".join(line for line in kept["tables"][str(number)] if line not in shared)


def _line(row: Mapping[str, Any]) -> str:
    return GAINS[row["figure"]] + (f", {row['source']} to {row['target']}" if "source" in row else "")


def gains(kept: Mapping[str, Any]) -> str:
    """Return the gains of the first run, then those of all runs side by side."""
    first = table(kept, 0)
    if len(kept["runs"]) < 2:
        return first
    cells = {
        (figure, f"seed {run['seed']}"): f"{_number(value)} [{_number(low)}, {_number(high)}]: {verdict}"
        for run in kept["runs"]
        for figure, verdict, value, low, high in run["gains"]
    }
    return (
        f"{first}\n\nThe gain with other seeds, and what it says of the trained dictionary:\n\n{pivot(cells, 'Gain')}"
    )


def _is_shown(method: str) -> bool:
    """Return whether a method has a column beside the tables; of shuffled names those of AR&D are enough."""
    return method == paper.SHUFFLED or "names shuffled" not in method


def measures(run: Mapping[str, Any]) -> str:
    """Return what a run measures beside the paper's tables, a row a measure and a column a method."""
    words = {metric: text for metrics in MEASURES.values() for metric, text in metrics.items()}
    shown = [e for e in entries(run) if e.table == 0 and _is_shown(e.method)]
    own = {(words[e.metric], e.method): _figure(e) for e in shown if e.metric not in MEASURES["seeds"]}
    back = {(e.method, words[e.metric]): _figure(e) for e in shown if e.metric in MEASURES["seeds"]}
    stated = run["stated_labels"]
    missing = ", ".join(stated["missing"]) or "none"
    return "\n\n".join(
        [
            pivot(own, "Measure"),
            *([pivot(back, "What other seeds have too, and what chance gives")] if back else []),
            f"Labels that no name of AR&D states: {missing}.",
            f"Names of AR&D with no label of most of their clips: {stated['num_wrong']} of {stated['num_named']}.",
        ]
    )


def seeds(runs: Sequence[Mapping[str, Any]]) -> str:
    """Return the figures of all runs side by side: what other sounds, weights and draws change."""
    if len(runs) < 2:
        return f"Only seed {runs[0]['seed']} has been run."
    by_key: dict[tuple[int, str, str, str], list[str]] = {}
    for entry in (entry for run in runs for entry in entries(run)):
        by_key.setdefault(entry[:4], []).append(_number(entry.value))
    cells: dict[int, dict[tuple[str, str], str]] = {number: {} for number in (1, 3, 4, 0)}
    words = {metric: text for metrics in MEASURES.values() for metric, text in metrics.items()}
    own = f"l = {runs[0]['layer']}"
    for (number, method, where, metric), values in by_key.items():
        shown = " ".join(values)
        layer, _, expansion = where.partition(", ")
        if number == 1 and layer == own:
            cells[1][method, paper.METRICS[metric]] = shown
        elif number == 3:
            cells[3][method, steered.arrow(where)] = shown
        elif number == 4 and metric == "ms":
            cells[4][f"{method}, {expansion}" if expansion else method, f"highest m, {layer}"] = shown
        elif number == 0 and len(values) == len(runs) and _is_shown(method):
            cells[0][words[metric], method] = shown
    heads = {
        1: f"**Table 1** at layer {runs[0]['layer']}",
        3: "**Table 3**",
        4: "**Table 4**",
        0: "**Beside the tables**",
    }
    order = ", ".join(str(run["seed"]) for run in runs)
    parts = [f"{heads[n]}, seeds {order}:\n\n{pivot(cells[n], 'Measure' if n == 0 else 'Method')}" for n in cells]
    return "\n\n".join(parts)


def features(runs: Sequence[Mapping[str, Any]]) -> str:
    """Return the feature that comes first for every target, run by run, and what it truly is active on."""
    rows = [["Seed", "Target", "Feature", "Name", "AUROC, all clips", "AUROC, voices", "Voices with the target"]]
    for run in runs:
        first: dict[str, Mapping[str, Any]] = {}
        for feature in run["features"]:
            first.setdefault(feature["target"], feature)
        for target, feature in first.items():
            areas = [
                f"{value:.2f} [{low:.2f}, {high:.2f}]"
                for value, low, high in (feature["among_all"], feature["among_voices"])
            ]
            true, voices = feature["num_voices"]
            rows.append(
                [str(run["seed"]), target, str(feature["feature"]), feature["name"], *areas, f"{true} of {voices}"]
            )
    return grid(rows)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def span(figure: Sequence[float | None], sign: str = "") -> str:
    """Return a value with its interval, if it has one."""
    value, *interval = ("–" if number is None else f"{number:{sign}.2f}" for number in figure)
    return f"{value} [{', '.join(interval)}]" if interval and "–" not in interval else value


def _figure(entry: Entry | None) -> str:
    return "–" if entry is None else f"{_number(entry.value)} [{_number(entry.low)}, {_number(entry.high)}]"


def pivot(cells: Mapping[tuple[str, str], str], corner: str) -> str:
    """Return cells, by row and column, as a Markdown table; rows and columns are in the order of the cells."""
    rows, columns = (list(dict.fromkeys(key[i] for key in cells)) for i in range(2))
    return grid([[corner, *columns], *([row, *(cells.get((row, column), "–") for column in columns)] for row in rows)])


def fill(page: str, made: Mapping[str, str]) -> str:
    """Return a page with the text of its blocks replaced."""
    return BLOCK.sub(lambda block: f"<!-- {block['name']} -->\n\n{made[block['name']].strip()}\n\n<!-- end -->", page)


def main(folders: Sequence[str]) -> None:
    """Read the runs, if any are given, and fill the pages."""
    if folders:
        write_json(KEPT, collect([Path(folder) for folder in folders]))
    made = blocks(json.loads(KEPT.read_text(encoding="utf-8")))
    for page in PAGES:
        with replacing(page) as partial:
            partial.write_text(fill(page.read_text(encoding="utf-8"), made), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
