"""The command that lists the runs under a folder: `ard runs`. It loads no model."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from ard.chain import is_begun, reopened
from ard.console import Progress, size_text
from ard.reports import read_fvu
from ard.reports.gains import VERDICTS, gain_rows, verdict
from ard.run import Run
from ard.steps import TABLES, Goal
from ard.types import UserError

WIDTH = 80
LEAST_OF_MODEL = 8  # columns of the model's name, which is cut where the others need the room
NOTHING = "–"
LEGEND = (
    "> chance: features above chance, of those that are live",
    "gain: F1 minus that of untrained dictionaries; in brackets if not told apart",
)
UNREADABLE = (UserError, OSError, ValueError, LookupError, TypeError, AttributeError)
"""What reading damaged files can raise, whatever is in them."""


class Overview(NamedTuple):
    """The line of a run."""

    run: str
    preset: str = NOTHING
    model: str = NOTHING
    seed: str = NOTHING
    above_chance: str = NOTHING
    f1: str = NOTHING
    gain: str = NOTHING
    fvu: str = NOTHING
    size: str = NOTHING


HEADS = Overview("run", "preset", "model", "seed", "> chance", "F1", "gain", "FVU", "size")
NUM_TEXTS = 3  # columns that are no numbers, which come first
MODEL = HEADS.index("model")


def runs(folder: Path = Path("runs")) -> None:
    """List the runs under a folder: model, main figures, size, and what is unfinished and why.

    Args:
        folder: the folder, in which runs may lie at any depth.
    """
    found = list(find_runs(folder))
    if not found:
        raise UserError(f"there is no run in {str(folder)!r}: give a folder with the --out folders of runs")
    overviews, reasons = [HEADS], []
    with Progress("looking", len(found), "runs") as progress:
        for run in found:
            name = str(run.folder.relative_to(folder)) if run.folder != folder else folder.resolve().name
            overview, todo = look_at(run)
            overviews.append(overview._replace(run=name))
            if todo:
                reasons.append(f"{name}: {todo[0]}" + (f" (and {len(todo) - 1} more)" if len(todo) > 1 else ""))
            progress.advance()
    lines = [*_aligned(overviews), *LEGEND, *(["", "Not finished:"] if reasons else []), *reasons]
    for line in lines:
        Console().print(line, markup=False, highlight=False, soft_wrap=True)


def find_runs(folder: Path) -> Iterator[Run]:
    """Return the runs in a folder, at any depth, by name; there are none inside of a run."""
    for inside, folders, _ in os.walk(folder):
        run = Run(Path(inside))
        if run.path.is_file() or (run.folder != folder and is_begun(run)):
            folders.clear()
            yield run
        folders.sort()


def look_at(run: Run) -> tuple[Overview, Sequence[str]]:
    """Return the line of a run, and what is not done of it and why; if its files cannot be read, that is the reason."""
    overview = Overview(str(run.folder), size=size_text(_num_bytes(run.folder)))
    if not run.path.is_file():
        return overview, ["it was stopped before there was more than sounds"]
    try:
        Run.load(run.folder)
        overview = overview._replace(preset=Path(run.preset).name, model=Path(run.model).name, seed=str(run.seed))
        overview = overview._replace(**_figures(run))
        return overview, _unfinished(run)
    except UNREADABLE as error:
        return overview, [str(error) if isinstance(error, UserError) else f"a file of it is damaged ({error!r})"]


def _figures(run: Run) -> dict[str, str]:
    """Return what was measured on the run's own dictionary, by the columns of the list."""
    own, fvu, figures = run.own, read_fvu(run.own), {}
    if fvu is not None:
        figures["fvu"] = f"{fvu:.2f}"
    scored = own.result("monosemanticity")
    if scored is not None and "num_live" in scored.details:
        figures["above_chance"] = f"{scored.details['num_above_chance']['ard']}/{scored.details['num_live']}"
    matched = own.result("matching")
    for row in matched.rows if matched is not None else ():
        if row.method == own.method:
            figures["f1"] = f"{row.figures['f1'].value:.2f}"
    for row in gain_rows(run):
        if row.method == "matching/f1":
            gain = f"{row.figures['gain'].value:+.2f}"
            figures["gain"] = f"({gain})" if verdict(row) == VERDICTS[1] else gain
    return figures


def _unfinished(run: Run) -> list[str]:
    """Say what is not done of all that the run was ever for, and why."""
    made: list[Goal] = [number for number in TABLES if run.table(number).is_file()]
    goals = run.facts.get("goals") or [*made, "concepts"]  # runs of earlier versions do not say what they are for
    todo = list(reopened(run).list_unfinished(goals))
    return todo if todo or run.report.is_file() else ["the tables and the report are not written yet"]


def _num_bytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*"))


def _aligned(rows: Sequence[Overview]) -> Iterator[Text]:
    """Return a line for each row, the columns one below the other; within 80 columns if the names are short."""
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    widths[MODEL] = max(LEAST_OF_MODEL, min(widths[MODEL], WIDTH - sum(widths) - len(widths) + 1 + widths[MODEL]))
    for place, row in enumerate(rows):
        cells = [Text(cell, "bold" if place == 0 else "") for cell in row]
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True)):
            cell.truncate(width, overflow="ellipsis")
            cell.align("left" if column < NUM_TEXTS else "right", width)
        yield Text(" ").join(cells)
