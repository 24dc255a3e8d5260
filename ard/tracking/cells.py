"""What was measured on a cell, as a logger shows it: figures, plots, and W&B's tables with clips that play."""

import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import wandb
import xxhash
from lightning.pytorch.loggers import Logger

from ard.reports import Table, build_tables, headline
from ard.reports.concepts import read_concepts
from ard.reports.sounds import stored_sounds
from ard.results import Result, Row
from ard.run import Cell, Run
from ard.tracking.artifacts import log_cell_artifacts, log_report_artifact
from ard.tracking.logger import WandbLogger
from ard.tracking.show import histogram, lines, overlaid, show_histogram

COLUMNS = (
    "feature",
    "name",
    "support",
    "m",
    "q_value",
    "n_active",
    "detection",
    "passes",
    "clap",
    "captions",
    "selected",
)
"""Columns of the table of concepts, before its clips."""

CATALOGUED = ("monosemanticity", "naming", "detection")
"""The results of what makes the catalogue."""


def log_cell(
    logger: Logger,
    cell: Cell,
    settings: Mapping[str, Any] | None = None,
    *,
    prefix: str = "",
    tables: Iterable[Table] = (),
) -> None:
    """Log what has been measured on a cell and was not logged before.

    W&B gets it in the cell's own run, which is then ended, as figures, plots, tables and artifacts. Any other logger
    gets every figure, and one metric for each figure of a table.

    Args:
        logger: Lightning's, or :class:`WandbLogger`.
        cell: the cell.
        settings: the settings of each evaluator that measured it.
        prefix: what to put before names in a logger that several cells share.
        tables: the run's tables, with the cell that they are of.
    """
    if isinstance(logger, WandbLogger):
        _log_to_wandb(logger.of(cell), cell, settings or {}, [table for table in tables if table.rows])
        return
    results = [result for path in cell.result_files if (result := cell.result(path.stem)) is not None]
    metrics = {f"{prefix}{name}": value for result in results for name, value in figures(result, cell).items()}
    metrics |= {
        f"{prefix}{name}": value for table in tables for row in table.rows for name, value in _cited(table, row)
    }
    logger.log_metrics(metrics)
    for name in ("m", "m_by_chance") if cell.path("selections").is_file() else ():
        scores = cell.tensors("selections").get(f"ard/{name}")
        if scores is not None:
            show_histogram(logger, f"{prefix}monosemanticity/{name}", scores)
    logger.save()


def _log_to_wandb(logger: WandbLogger, cell: Cell, settings: Mapping[str, Any], tables: Sequence[Table]) -> None:
    state = {path.stem: xxhash.xxh3_64_hexdigest(path.read_bytes()) for path in cell.result_files}
    state |= {_key(table): xxhash.xxh3_64_hexdigest(repr(table.rows).encode()) for table in tables}
    changed = {name for name, checksum in state.items() if logger.entry.logged.get(name) != checksum}
    if not changed or logger.experiment.disabled:
        return
    logger.describe(settings)
    results = [result for path in cell.result_files if path.stem in changed and (result := cell.result(path.stem))]
    shown: dict[str, Any] = {}
    for result in results:
        shown |= figures(result, cell) | dict(_plots(result))
    shown |= {_key(table): _wandb_table(table) for table in tables if _key(table) in changed}
    is_catalogue_new = not changed.isdisjoint(CATALOGUED)
    with tempfile.TemporaryDirectory() as scratch, logger.copies():
        if is_catalogue_new:
            shown |= _of_cell(logger, cell, Path(scratch))
        logger.experiment.log(shown)
    log_cell_artifacts(logger, cell, ("representatives", "catalogue", "results") if is_catalogue_new else ("results",))
    if tables:
        logger.experiment.summary["headline"] = " ".join(headline(cell.run))
        log_report_artifact(logger, cell.run)
    logger.entry.logged |= state
    logger.finish()


def log_results(run: Run) -> None:
    """Log to W&B what has been measured since in the cell of Tables 1 to 3, if what was measured before is there."""
    logger = WandbLogger.kept(run.own)
    if logger is not None:
        log_cell(logger, run.own, tables=build_tables(run.folder))


def figures(result: Result, cell: Cell) -> dict[str, float]:
    """Return every figure of a result by name, each with its interval.

    A name is ``<evaluation>/<figure>`` in the rows of the cell's own method, and has the row's method before the figure
    in those of others; a shift of Table 3 comes between. ``/low`` and ``/high`` follow for the interval. Numbers of the
    result's details are ``<evaluation>/details/...``. What is not defined is left out.
    """
    named: dict[str, float] = {}
    for row in result.rows:
        for name, figure in row.figures.items():
            key = "/".join([*_where(result, row, cell), name])
            named |= {key: figure.value, f"{key}/low": figure.low, f"{key}/high": figure.high}
    named |= dict(_numbers(f"{result.evaluation}/details", result.details))
    return {name: value for name, value in named.items() if math.isfinite(value)}


def _where(result: Result, row: Row, cell: Cell) -> list[str]:
    method = [] if row.method == cell.method else [row.method]
    shift = [f"{row.source} to {row.target}"] if row.source else []
    return [result.evaluation, *method, *shift]


def _numbers(name: str, details: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for key, value in details.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{name}/{key}", float(value)
        elif isinstance(value, Mapping) and not _is_table(value):
            yield from _numbers(f"{name}/{key}", value)


def _is_table(value: Any) -> bool:
    """Return whether something in a result's details has rows of the same kind."""
    rows = list(value.values()) if isinstance(value, Mapping) else value if isinstance(value, list) else []
    return len(rows) > 1 and all(isinstance(row, Mapping) for row in rows) and len({tuple(row) for row in rows}) == 1


def _plots(result: Result) -> Iterator[tuple[str, Any]]:
    """Yield W&B's plots and tables of a result's details."""
    for key, value in result.details.items():
        name = f"{result.evaluation}/{key}"
        if key == "curve" and value:
            shares, scores = zip(*value, strict=True)
            yield name, lines({"m": (shares, scores)}, title="m by share of live features", x="share")
        elif key == "curves" and value:
            curves = {method: ([at[2] for at in curve], [at[1] for at in curve]) for method, curve in value.items()}
            yield name, lines(curves, title="precision by recall", x="recall")
        elif key == "tasks":
            yield from _doses(result, value)
        elif _is_table(value):
            rows = list(value.values()) if isinstance(value, Mapping) else value
            columns = [column for column, item in rows[0].items() if not isinstance(item, Mapping | list)]
            names = list(value) if isinstance(value, Mapping) else range(len(rows))
            data = [[of, *(row[column] for column in columns)] for of, row in zip(names, rows, strict=True)]
            yield name, wandb.Table(columns=["of", *columns], data=data, allow_mixed_types=True)


def _doses(result: Result, tasks: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield a plot for each task: how many answers are the target's, and how many readable, by the dose."""
    for task, measured in tasks.items():
        steered = [point for point in measured.get("dose_response") or [] if point["multiple"] is not None]
        if steered:
            doses = [point["multiple"] for point in steered]
            plotted = {name: (doses, [p[name]["value"] for p in steered]) for name in ("sensitivity", "readable")}
            yield f"{result.evaluation}/doses/{task}", lines(plotted, title=task, x="multiple of the activation")


def _of_cell(logger: WandbLogger, cell: Cell, scratch: Path) -> dict[str, Any]:
    """Return histograms and the table of concepts, from a cell's tensors and catalogue."""
    shown: dict[str, Any] = {}
    if cell.path("representatives").is_file():
        lists = cell.tensors("representatives")
        live = lists["n_active"] > 0
        shown["representatives/n_active"] = histogram(lists["n_active"][live])
        shown["representatives/top_score"] = histogram(lists["ard/top_scores"][live, 0])
    if cell.path("selections").is_file():
        scores = cell.tensors("selections")
        compared = {"m": scores["ard/m"], "m of random clips": scores.get("ard/m_by_chance", scores["ard/m"][:0])}
        if compared["m"].isfinite().any():
            shown["monosemanticity/null"] = overlaid(compared, title="m, and m of random clips with the same L", x="m")
    if cell.path("concepts").is_file():
        shown["concepts"] = _concept_table(logger, cell, scratch)
    return shown


def _concept_table(logger: WandbLogger, cell: Cell, scratch: Path) -> wandb.Table:
    """Return the concepts, the highest m first, with clips of H^k that play, in the run's own cell, as room allows."""
    concepts = [concept for concept in read_concepts(cell) if concept["selected"] or concept["name"] is not None]
    concepts.sort(key=lambda concept: -(concept["m"] if concept["m"] is not None else -math.inf))
    is_own = cell.run.path.is_file() and cell.folder == cell.run.own.folder
    sounds = _sounds(cell, concepts, scratch, round(logger.audio_mb * 1e6)) if is_own else {}
    p = max((len(concept["top_ids"]) for concept in concepts), default=0) if sounds else 0
    data = []
    for concept in concepts:
        texts = [_text(concept.get(column)) for column in COLUMNS]
        clips = [sounds.get(clip_id) for clip_id in concept["top_ids"]]
        audio = [wandb.Audio(str(path), caption=path.stem) if path else None for path in clips][:p]
        data.append([*texts, *audio, *[None] * (p - len(audio))])
    return wandb.Table(columns=[*COLUMNS, *(f"clip {rank + 1}" for rank in range(p))], data=data)


def _sounds(cell: Cell, concepts: Iterable[Mapping[str, Any]], scratch: Path, most_bytes: int) -> dict[str, Path]:
    """Write as many of the concepts' clips as there is room for, those of the first concepts first, and return them."""
    wanted = dict.fromkeys(clip_id for concept in concepts for clip_id in concept["top_ids"])
    shards = [shard for split in cell.run.audio_splits for shard in sorted(split.glob("*.tar"))]
    sizes = {sound.clip_id: sound.size for shard in shards for sound in stored_sounds(shard, wanted)}
    room, chosen = most_bytes, set()
    for clip_id in wanted:
        room -= sizes.get(clip_id, 0)
        if room < 0:
            break
        chosen.add(clip_id)
    paths: dict[str, Path] = {}
    for shard in shards:
        for sound in stored_sounds(shard, chosen - paths.keys()):
            path = scratch / f"{len(paths):05d}{sound.suffix}"
            path.write_bytes(sound.read())
            paths[sound.clip_id] = path
    return paths


def _text(value: Any) -> Any:
    return "; ".join(map(str, value)) if isinstance(value, list) else value


def _key(table: Table) -> str:
    return f"table{table.number}" if table.number else "gains"


def _wandb_table(table: Table) -> wandb.Table:
    flat = [_flat(row) for row in table.rows]
    columns: list[str | int] = list(dict.fromkeys(key for row in flat for key in row))
    return wandb.Table(columns=columns, data=[[row.get(str(key)) for key in columns] for row in flat])


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


def _cited(table: Table, row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    where = [row["method"], f"l{row['layer']}", *([f"e{row['expansion']}"] if row["expansion"] is not None else [])]
    if "source" in row:
        where.append(f"{row['source']}-{row['target']}")
    for key, item in row.items():
        if isinstance(item, Mapping) and key != "paper" and math.isfinite(item["value"]):
            yield "/".join([_key(table), *where, key]), item["value"]
