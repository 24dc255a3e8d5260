"""Tables 1, 3 and 4 from a run's result files, with the paper's figures beside this run's."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger

from ard.reports import paper
from ard.reports.paper import Printed
from ard.reports.run import Run
from ard.reports.table import Cell, Line, Table, latex, markdown
from ard.types import Result, Row, UserError, write_json


def build_tables(folder: Path, numbers: Iterable[int] = (1, 3, 4)) -> list[Table]:
    """Build tables from the result files of a run's folder.

    Raises :class:`UserError` for a number other than 1, 3 and 4, and where the folder is no run's.
    """
    run = Run.load(folder)
    makers: Mapping[int, Callable[[Run], Table]] = {1: _table1, 3: _table3, 4: _table4}
    tables = []
    for number in numbers:
        if number not in makers:
            raise UserError(f"there is no table {number} to make from a run's results: ask for 1, 3 or 4")
        tables.append(makers[number](run))
    return tables


def write_tables(folder: Path, numbers: Iterable[int] = (1, 3, 4)) -> list[Table]:
    """Build tables and write each as ``tables/table<N>.{json,md,tex}``; one without lines is not written."""
    tables = build_tables(folder, numbers)
    for table in tables:
        path = folder / "tables" / f"table{table.number}.json"
        if not table.lines:
            for suffix in (".json", ".md", ".tex"):  # an older run's table must not pass for this run's
                path.with_suffix(suffix).unlink(missing_ok=True)
            continue
        write_json(path, {"table": table.number, "preset": table.preset, "rows": table.rows})
        path.with_suffix(".md").write_text(markdown(table))
        path.with_suffix(".tex").write_text(latex(table))
    return tables


def log_tables(logger: Logger, tables: Iterable[Table]) -> None:
    """Log tables through a Lightning logger: as tables to W&B, as one metric a figure to any other."""
    measured = [table for table in tables if table.rows]
    if not isinstance(logger, WandbLogger):
        logger.log_metrics(
            dict(pair for table in measured for row in table.rows for pair in _metrics(table.number, row))
        )
        return
    for table in measured:
        flat = [_flat(row) for row in table.rows]
        columns = list(dict.fromkeys(key for row in flat for key in row))
        logger.log_table(f"table{table.number}", columns, [[row.get(key) for key in columns] for row in flat])


def _table1(run: Run) -> Table:
    results = run.results("matching", run.layers, [run.expansion])
    rows = [row for row in _ordered(results) if row.layer == run.layer or row.method == "AR&D"]
    beside = paper.counterparts(run.layers, run.layer)
    lines, data = [], []
    for row in rows:
        at = beside.get(row.layer) if row.method == "AR&D" else paper.LAYER
        printed = paper.TABLE1.get((row.method, at or 0), {})
        where = f" (l = {row.layer})" if row.method == "AR&D" else ""
        lines.append(Line((row.method + where,), _cells(row, paper.METRICS, printed)))
        data.append(_json_row(row, paper.METRICS, printed, layer=at, expansion=paper.EXPANSION))
    missing = [name for name in paper.COMPARED if rows and name not in {row.method for row in rows}]
    notes = [f"Not measured in this run: {', '.join(missing)}"] if missing else []
    if rows:
        notes += [paper.TABLE1_MS_NOTE, *_unbeaten(lines, list(paper.METRICS.values())), *_map_at_matches(rows)]
    else:
        notes = [_left_out("matching.json", "names can be matched only against labels, and these clips may have none")]
    return Table(
        number=1,
        preset=run.preset,
        title="Evaluation of interpretability",
        stub_heads=("Method",),
        heads=tuple(paper.METRICS.values()),
        paper_heads=("paper",) * len(paper.METRICS),
        lines=tuple(lines),
        rows=tuple(data),
        notes=(*_provenance(run, "FSD50K", rows), *notes, *_notes(results, rows)),
    )


def _table3(run: Run) -> Table:
    results = run.results("steering", [run.layer], [run.expansion])
    rows = _ordered(results)
    shifts = sorted(dict.fromkeys(_shift(row) for row in rows), key=_place(paper.SHIFTS))
    lines = []
    for method in dict.fromkeys(row.method for row in rows):
        printed = paper.TABLE3.get(method, {})
        ours = {_shift(row): row.figures.get("sensitivity") for row in rows if row.method == method}
        lines.append(Line((method,), tuple(Cell(ours.get(shift), printed.get(shift)) for shift in shifts)))
    data = []
    for row in rows:
        figure = paper.TABLE3.get(row.method, {}).get(_shift(row))
        found = {"sensitivity": figure} if figure else {}
        data.append(_json_row(row, ["sensitivity"], found, layer=paper.LAYER, expansion=paper.EXPANSION))
    heads = tuple(f"{source.capitalize()} → {target.capitalize()}" for source, target in shifts)
    asked = "steering asks for clips of known emotion or gender"
    compared = [line for line in lines if line.stub != ("Reverse",)]
    notes = _unbeaten(compared, heads) if rows else [_left_out("steering.json", asked)]
    if rows and not notes and ("AR&D",) in [line.stub for line in compared]:
        notes = ["On every shift the interval of AR&D lies above that of every control and of Poly. Feats."]
    return Table(
        number=3,
        preset=run.preset,
        title="Sensitivity of feature steering",
        stub_heads=("Method",),
        heads=heads,
        paper_heads=("paper",) * len(shifts),
        lines=tuple(lines),
        rows=tuple(data),
        notes=(*_provenance(run, "IEMOCAP-Emotion and VoxCeleb1-Gender", rows), *notes, *_notes(results, rows)),
    )


def _table4(run: Run) -> Table:
    results = run.results("monosemanticity", run.layers, run.expansions)
    rows = _ordered(results)
    layers = sorted({row.layer for row in rows})
    beside = paper.counterparts(run.layers, max(run.layers))
    lines = []
    for method, expansion in dict.fromkeys((row.method, row.expansion) for row in rows):
        printed = paper.TABLE4.get((method, expansion), {})
        ours = {row.layer: row.figures.get("ms") for row in rows if (row.method, row.expansion) == (method, expansion)}
        cells = tuple(Cell(ours.get(layer), printed.get(beside.get(layer, 0))) for layer in layers)
        lines.append(Line((method, "–" if expansion is None else str(expansion)), cells))
    data = []
    for row in rows:
        at = beside.get(row.layer)
        figure = paper.TABLE4.get((row.method, row.expansion), {}).get(at or 0)
        data.append(_json_row(row, ["ms"], {"ms": figure} if figure else {}, layer=at, expansion=row.expansion))
    heads = tuple(f"l = {layer}" for layer in layers)
    asked = "run `ard run` or `ard demo` to the end"
    notes = _unbeaten(lines, heads) if rows else [_left_out("monosemanticity.json", asked)]
    return Table(
        number=4,
        preset=run.preset,
        title="Monosemanticity (highest m) by layer and expansion factor",
        stub_heads=("Method", "e"),
        heads=heads,
        paper_heads=tuple(f"paper, l = {beside[layer]}" if layer in beside else "paper" for layer in layers),
        lines=tuple(lines),
        rows=tuple(data),
        notes=(*_provenance(run, "WavCaps and IEMOCAP", rows), *notes, *_notes(results, rows)),
    )


def _map_at_matches(rows: Sequence[Row]) -> list[str]:
    """Say what mAP would be by the reading that is not in the table."""
    known = [(row.method, row.figures["map_at_matches"].value) for row in rows if "map_at_matches" in row.figures]
    said = ", ".join(f"{method} {value:.2f}" for method, value in known)
    reading = (
        "mAP is precision averaged over all ranks, as the paper words it. Summed at the matches over the number of "
        f"references instead, as in object detection, it follows recall and rewards many predictions: {said}."
    )
    return [reading] if known else []


def _unbeaten(lines: Sequence[Line], heads: Sequence[str]) -> list[str]:
    """Say, column by column, which other rows the intervals of AR&D do not lie above; nothing where they all do."""
    said = []
    for column, head in enumerate(heads):
        measured = [(line.stub, figure) for line in lines if (figure := line.cells[column].ours) is not None]
        unbeaten = [
            other[0] + (f" (against e = {own[1]})" if len(own) > 1 else "")
            for own, ours in measured
            for other, theirs in measured
            if own[0].startswith("AR&D") and not other[0].startswith("AR&D") and not ours.low > theirs.high
        ]
        if unbeaten:
            said.append(f"{head}: {', '.join(unbeaten)}")
    return [f"Where the interval of AR&D does not lie above another row's: {'; '.join(said)}"] if said else []


def _ordered(results: Iterable[Result]) -> list[Row]:
    """Put rows into the paper's order of methods, then by expansion, layer and shift; the first of equals counts."""
    rows: dict[tuple[Any, ...], Row] = {}
    for row in (row for result in results for row in result.rows):
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
    """Return a row as ``table<N>.json`` has it, with where the paper measured what it ``printed``."""
    content: dict[str, Any] = {"method": row.method, "layer": row.layer, "expansion": row.expansion}
    if row.source is not None:
        content |= {"source": row.source, "target": row.target}
    for metric in metrics:
        if (figure := row.figures.get(metric)) is not None:
            content[metric] = {"value": figure.value, "low": figure.low, "high": figure.high, "n": figure.n}
    if printed:
        content["paper"] = {"layer": layer, "expansion": None if row.expansion is None else expansion}
        for metric, (value, plus_minus) in printed.items():
            content["paper"][metric] = {"value": value} | ({"plus_minus": plus_minus} if plus_minus is not None else {})
    return content


def _provenance(run: Run, papers_clips: str, rows: Sequence[Row]) -> list[str]:
    if not rows:
        return []
    ours = (
        f"This run: {run.model}; {run.data.rstrip('.')}; preset {run.preset}, layer {run.layer}, e = {run.expansion}."
    )
    theirs = (
        f"Paper: as printed in arXiv 2602.22253, Qwen2-Audio-7B-Instruct on real recordings ({papers_clips}), "
        f"layer {paper.LAYER}, e = {paper.EXPANSION} unless said otherwise."
    )
    if run.preset != "paper":
        theirs += (
            " Another model and other clips: the two are not comparable, least of all where the clips are simulated."
        )
    return ["Every figure of this run stands with its 95 % interval.", ours, theirs]


def _left_out(file: str, why: str) -> str:
    return f"Left out: this run has no {file} ({why})."


def _notes(results: Iterable[Result], rows: Iterable[Row]) -> list[str]:
    said = [str(result.details["note"]) for result in results if result.details.get("note")]
    return list(dict.fromkeys(said + [f"{row.method}: {row.note}" for row in rows if row.note]))


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in row.items():
        if key == "paper":
            flat |= {f"paper_{metric}": f["value"] for metric, f in item.items() if isinstance(f, Mapping)}
        elif isinstance(item, Mapping):
            flat |= {key if part == "value" else f"{key}_{part}": number for part, number in item.items()}
        else:
            flat[key] = item
    return flat


def _metrics(number: int, row: Mapping[str, Any]) -> Iterable[tuple[str, float]]:
    where = [row["method"], f"l{row['layer']}", *([f"e{row['expansion']}"] if row["expansion"] is not None else [])]
    if "source" in row:
        where.append(f"{row['source']}-{row['target']}")
    for key, item in row.items():
        if isinstance(item, Mapping) and key != "paper" and math.isfinite(item["value"]):
            yield "/".join([f"table{number}", *where, key]), item["value"]
