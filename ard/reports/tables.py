"""Tables 1 to 4 from a run's result files, with the paper's figures beside this run's."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain, product
from pathlib import Path
from typing import Any

from ard.reports import notes, paper
from ard.reports.gains import gains_table
from ard.reports.paper import Printed
from ard.reports.table import Cell, Line, Table, latex, markdown
from ard.results import OWN_METHOD, Figure, Result, Row, write_json, write_text
from ard.run import Run
from ard.types import UserError

NUMBERS = (0, 1, 2, 3, 4)


def build_tables(folder: Path, numbers: Iterable[int] = NUMBERS) -> list[Table]:
    """Build tables from the result files of a run's folder; 0 is what training gives, which the paper does not have.

    Raises :class:`UserError` for a number other than 1 to 4, and if the folder is not a run's.
    """
    run = Run.load(folder)
    makers: Mapping[int, Callable[[Run], Table]] = {0: gains_table, 1: _table1, 2: _table2, 3: _table3, 4: _table4}
    tables = []
    for number in numbers:
        if number not in makers:
            raise UserError(f"there is no table {number} to make from a run's results: ask for 0, 1, 2, 3 or 4")
        tables.append(makers[number](run))
    return tables


def write_tables(folder: Path, numbers: Iterable[int] = NUMBERS) -> list[Table]:
    """Build tables and write each as ``tables/table<N>.{json,md,tex}``, or ``gains``, unless it has no lines."""
    tables, run = build_tables(folder, numbers), Run(folder)
    for table in tables:
        if not table.lines:
            for suffix in ("json", "md", "tex"):  # an older run's table must not pass for this run's
                run.table(table.number, suffix).unlink(missing_ok=True)
            continue
        write_json(run.table(table.number), {"table": table.number, "preset": table.preset, "rows": table.rows})
        write_text(run.table(table.number, "md"), markdown(table))
        write_text(run.table(table.number, "tex"), latex(table))
    return tables


def _table1(run: Run) -> Table:
    results = run.results("matching", run.layers, [run.expansion])
    controls = control_rows(run, "matching", [run.layer])
    rows = [row for row in _ordered(results, controls) if row.layer == run.layer or row.is_own]
    rows = _with_figures_of_others(run, rows, paper.METRICS)
    beside = paper.counterparts(run.layers, run.layer)
    lines, data = [], []
    for row in rows:
        at = beside.get(row.layer) if row.is_own else paper.LAYER
        printed = paper.TABLE1.get((row.method, at or 0), {})
        where = f" (l = {row.layer})" if row.is_own else ""
        lines.append(Line((row.method + where,), _cells(row, paper.METRICS, printed), row.is_own))
        data.append(_json_row(row, paper.METRICS, printed, layer=at, expansion=paper.EXPANSION))
    missing = [name for name in paper.COMPARED if rows and name not in {row.method for row in rows}]
    texts = [f"Not measured in this run: {', '.join(missing)}"] if missing else []
    if rows:
        texts += [
            *notes.reading(results, run.results("monosemanticity", [run.layer], [run.expansion])),
            paper.TABLE1_MS_NOTE,
            *notes.differences(results, run.results("gain", [run.layer], [run.expansion])),
            *notes.other_similarity(run.results("matching_other", [run.layer], [run.expansion])),
            *notes.map_at_matches([row for row in rows if row.layer == run.layer]),
        ]
    else:
        texts = [notes.left_out("names can be matched only against labels, and these clips may have none", "matching")]
    return Table(
        number=1,
        preset=run.preset,
        title="Evaluation of interpretability",
        stub_heads=("Method",),
        heads=tuple(paper.METRICS.values()),
        paper_heads=("paper",) * len(paper.METRICS),
        lines=tuple(lines),
        rows=tuple(data),
        notes=(
            *notes.provenance(run, "FSD50K", rows),
            *texts,
            *notes.undefined(lines),
            *notes.of_rows(rows),
        ),
    )


def _with_figures_of_others(run: Run, rows: Iterable[Row], metrics: Iterable[str]) -> list[Row]:
    """Add to rows the figures ``<evaluation>/<figure>`` that another result has of the same method and cell."""
    added: dict[tuple[Any, ...], dict[str, Figure]] = {}
    for metric in metrics:
        evaluation, slash, name = metric.partition("/")
        others = run.results(evaluation, run.layers, [run.expansion]) if slash else []
        controls = control_rows(run, evaluation, [run.layer]) if slash else []
        for row in (row for row in _ordered(others, controls) if name in row.figures):
            added.setdefault((row.method, row.layer, row.expansion), {})[metric] = row.figures[name]
    return [
        replace(row, figures={**row.figures, **added.get((row.method, row.layer, row.expansion), {})}) for row in rows
    ]


def _table2(run: Run) -> Table:
    """People first, then each language model, then the corpus's labels in place of raters; no row mixes them."""
    studies = run.results("study", [run.layer], [run.expansion])
    corpora = run.results("name_similarity", [run.layer], [run.expansion])
    rated = _ordered(studies)
    people = [row for row in rated if row.method in paper.TABLE2]
    models = sorted((row for row in rated if row.method not in paper.TABLE2), key=lambda row: row.method.split(",")[-1])
    stand_ins = [_true_labels(row, result) for result in corpora for row in result.rows]
    stand_ins += [
        replace(row, method=f"{row.method}, true labels as raters")
        for row in control_rows(run, "name_similarity", [run.layer])
    ]
    stand_ins.sort(key=lambda row: (row.method.count(","), _place(paper.METHODS)(row.method.split(",")[0])))
    lines, data, kinds = [], [], []
    for method, printed in () if people or not (models or stand_ins) else paper.TABLE2.items():  # for people to fill
        lines.append(
            Line((method,), tuple(Cell(None, printed[metric]) for metric in paper.JUDGED), method == OWN_METHOD)
        )
    for raters, rows in (("people", people), ("language model", models), ("true labels", stand_ins)):
        start = len(lines)
        for row in rows:
            printed = paper.TABLE2[row.method] if raters == "people" else {}
            lines.append(Line((row.method,), _cells(row, paper.JUDGED, printed), row.is_own))
            content = _json_row(row, paper.JUDGED, printed, layer=paper.LAYER, expansion=paper.EXPANSION)
            data.append(content | {"raters": raters})
        kinds.append([line for line in lines[start:] if "shuffled" not in line.stub[0]])
    rows = [*people, *models, *stand_ins]
    texts = [notes.TRUE_LABELS] if stand_ins else []
    if not people:
        texts.append("No person has rated in this run (`ard study make`, `ard app`, `ard study score`).")
    if not any("bertscore" in row.figures for row in (*people, *models, *stand_ins)):
        texts.append("BERTScore is left out: this run names no language model for it (`bertscore` of its run.yaml).")
    if not rows:
        why = "neither people nor true labels, see docs/study.md"
        texts = [notes.left_out(why, "study", "name_similarity")]
    return Table(
        number=2,
        preset=run.preset,
        title="Human and semantic similarity evaluations",
        stub_heads=("Method",),
        heads=tuple(paper.JUDGED.values()),
        paper_heads=("paper",) * len(paper.JUDGED),
        lines=tuple(lines),
        rows=tuple(data),
        notes=(
            *notes.provenance(run, "WavCaps and IEMOCAP", rows),
            *texts,
            *(note for of_kind in kinds for note in notes.unbeaten(of_kind, list(paper.JUDGED.values()))),
            *notes.undefined(lines),
            *notes.agreement(studies),
            *notes.of_rows(rows),
        ),
    )


def _true_labels(row: Row, result: Result) -> Row:
    """Name a row after its reference, and note what it leaves out."""
    without, num_concepts = (result.details.get(key) for key in ("num_without_shared_label", "num_concepts"))
    note = f"{without} of {num_concepts} concepts are left out because their clips share no label" if without else None
    return replace(row, method=f"{row.method}, true labels as raters", note=None if "shuffled" in row.method else note)


def _table3(run: Run) -> Table:
    results = run.results("steering", [run.layer], [run.expansion])
    rows = _ordered(results, control_rows(run, "steering", [run.layer]))
    shifts = sorted(dict.fromkeys(_shift(row) for row in rows), key=_place(paper.SHIFTS))
    lines = []
    for method, measure in product(dict.fromkeys(row.method for row in rows), _SENSITIVITIES):
        of_shift = {_shift(row): row.figures.get(measure) for row in rows if row.method == method}
        is_first = measure == "sensitivity"
        printed = paper.TABLE3.get(method, {}) if is_first else {}
        if is_first or any(of_shift.values()):
            cells = tuple(Cell(of_shift.get(shift), printed.get(shift)) for shift in shifts)
            lines.append(Line((method if is_first else "", _SENSITIVITIES[measure]), cells, method == OWN_METHOD))
    data = []
    for row in rows:
        figure = paper.TABLE3.get(row.method, {}).get(_shift(row))
        theirs = {"sensitivity": figure} if figure else {}
        data.append(_json_row(row, _SENSITIVITIES, theirs, layer=paper.LAYER, expansion=paper.EXPANSION))
    heads = tuple(f"{source.capitalize()} → {target.capitalize()}" for source, target in shifts)
    why = "steering needs clips with known emotion or gender"
    drawn = [one for cell in run.controls(run.layer, run.expansion) if (one := cell.result("steering")) is not None]
    compared = run.results("steering_differences", [run.layer], [run.expansion])
    pooled = run.results("steering_seeds", [run.layer], [run.expansion])
    texts = notes.steering_differences(compared, pooled) if rows else [notes.left_out(why, "steering")]
    return Table(
        number=3,
        preset=run.preset,
        title="Sensitivity of feature steering",
        stub_heads=("Method", "Measure"),
        heads=heads,
        paper_heads=("paper",) * len(shifts),
        lines=tuple(lines),
        rows=tuple(data),
        notes=(
            *notes.provenance(run, "IEMOCAP-Emotion and VoxCeleb1-Gender", rows),
            *texts,
            *notes.undefined(lines),
            *notes.steering(results),
            *notes.ranked_controls(drawn),
            *notes.steering_diagnoses(results),
            *notes.of_rows(rows),
        ),
    )


def _table4(run: Run) -> Table:
    results = run.results("monosemanticity", run.layers, run.expansions)
    rows = _ordered(results, control_rows(run, "monosemanticity", run.layers))
    layers = sorted({row.layer for row in rows})
    beside = paper.counterparts(run.layers, max(run.layers))
    lines: dict[str, list[Line]] = {measure: [] for measure in _MEASURES}
    for (method, expansion), measure in product(dict.fromkeys((r.method, r.expansion) for r in rows), _MEASURES):
        printed = paper.TABLE4.get((method, expansion), {}) if measure == "ms" else {}
        of_layer = {row.layer: row for row in rows if (row.method, row.expansion) == (method, expansion)}
        cells = tuple(
            Cell(of_layer[at].figures.get(measure) if at in of_layer else None, printed.get(beside.get(at, 0)))
            for at in layers
        )
        which = (method, "–" if expansion is None else str(expansion)) if measure == "ms" else ("", "")
        is_own = measure == "ms" and method == OWN_METHOD
        lines[measure].append(Line((*which, _MEASURES[measure]), cells, is_own))
    data = []
    for row in rows:
        at = beside.get(row.layer)
        figure = paper.TABLE4.get((row.method, row.expansion), {}).get(at or 0)
        data.append(_json_row(row, row.figures, {"ms": figure} if figure else {}, layer=at, expansion=row.expansion))
    heads = tuple(f"l = {layer}" for layer in layers)
    why = "run `ard run` or `ard demo` to the end"
    texts = (
        notes.orders([result for result in results if result.rows[0].layer == run.layer])
        if rows
        else [notes.left_out(why, "monosemanticity")]
    )
    texts += notes.other_seeds(run)
    return Table(
        number=4,
        preset=run.preset,
        title="Monosemanticity by layer and expansion factor",
        stub_heads=("Method", "e", "Measure"),
        heads=heads,
        paper_heads=tuple(f"paper, l = {beside[layer]}" if layer in beside else "paper" for layer in layers),
        lines=tuple(chain.from_iterable(zip(*lines.values(), strict=True))),
        rows=tuple(data),
        notes=(
            *notes.provenance(run, "WavCaps and IEMOCAP", rows),
            *texts,
            *notes.undefined(chain.from_iterable(lines.values())),
            *notes.of_rows(rows),
        ),
    )


_MEASURES = {
    "ms": "highest m",
    "mean_ms_top_share": "mean m of the top fifth",
    "mean_ms_random_lowest_top_share": "the same, L at random",
    "above_chance": "share above chance",
}
"""The measures of Table 4: the paper's, then those that compare dictionaries of any width: all are of live features."""


_SENSITIVITIES = {"sensitivity": "turned", "sensitivity_at_equal_damage": "90% kept"}
"""The measures of Table 3: the paper's, then the one at equal damage."""


def control_rows(run: Run, evaluation: str, layers: Iterable[int]) -> list[Row]:
    """Return the rows of dictionaries that were never trained; several draws of one kind become one row."""
    cells = [cell for layer in layers for cell in run.controls(layer, run.expansion)]
    drawn: dict[tuple[Any, ...], list[Row]] = {}
    for result in (result for cell in cells if (result := cell.result(evaluation)) is not None):
        for row in result.rows:
            drawn.setdefault((row.method, row.layer, row.source, row.target), []).append(row)
    return [_pooled(rows).as_control() for rows in drawn.values()]


def _pooled(draws: Sequence[Row]) -> Row:
    if len(draws) == 1:
        return draws[0]
    shared = [name for name in draws[0].figures if all(name in row.figures for row in draws)]
    figures = {name: Figure.pooled([row.figures[name] for row in draws]) for name in shared}
    note = f"mean of {len(draws)} draws ± standard deviation; in the interval's place, the lowest and the highest draw"
    return replace(draws[0], figures=figures, note=note)


def _ordered(results: Iterable[Result], controls: Iterable[Row] = ()) -> list[Row]:
    """Put rows into the paper's order of methods, then by expansion, layer and shift; drop later duplicates."""
    rows: dict[tuple[Any, ...], Row] = {}
    for row in (*(row for result in results for row in result.rows), *controls):
        rows.setdefault((row.method, row.layer, row.expansion, _shift(row)), row)
    method, shift = _place(paper.METHODS), _place(paper.SHIFTS)
    return sorted(rows.values(), key=lambda r: (method(r.method), r.expansion or 0, r.layer, shift(_shift(r))))


def _place(order: Sequence[Any]) -> Callable[[Any], int]:
    return lambda item: order.index(item) if item in order else len(order)


def _shift(row: Row) -> tuple[str, str]:
    return (row.source or "").lower(), (row.target or "").lower()


def _cells(row: Row, metrics: Iterable[str], printed: Mapping[str, Printed]) -> tuple[Cell, ...]:
    return tuple(Cell(row.figures.get(metric), printed.get(metric)) for metric in metrics)


def _json_row(
    row: Row, metrics: Iterable[str], printed: Mapping[str, Printed], *, layer: int | None, expansion: int | None
) -> dict[str, Any]:
    """Return a row as ``table<N>.json`` has it, with the layer and expansion of what the paper ``printed``."""
    content: dict[str, Any] = {"method": row.method, "layer": row.layer, "expansion": row.expansion}
    if row.source is not None:
        content |= {"source": row.source, "target": row.target}
    for metric in metrics:
        if (figure := row.figures.get(metric)) is not None:
            content[metric] = {"value": figure.value, "low": figure.low, "high": figure.high, "n": figure.n}
            content[metric] |= {"spread": figure.spread} if figure.spread is not None else {}
    if printed:
        content["paper"] = {"layer": layer, "expansion": None if row.expansion is None else expansion}
        for metric, (value, plus_minus) in printed.items():
            content["paper"][metric] = {"value": value} | ({"plus_minus": plus_minus} if plus_minus is not None else {})
    return content
