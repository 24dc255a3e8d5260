"""The commands that only read a run's folder: `ard report`, `ard tables` and `ard concepts`. They load no model."""

from pathlib import Path

from rich.console import Console

from ard.console import at_work, console
from ard.files import claim
from ard.reports import (
    Export,
    Order,
    build_tables,
    find_concepts,
    headline,
    render_concepts,
    render_table,
    write_export,
    write_report,
    write_tables,
)
from ard.run import Run
from ard.types import UserError

MOST_LINES = 20  # of a list that may have thousands


def report(run: Path, export: Export | None = None) -> None:
    """Write the tables and the HTML report of a run's folder again, from its files alone.

    Args:
        run: the run's folder.
        export: write the concepts as another project's JSON instead, into ``export/`` of the run's folder:
            ``neuronpedia``, what Neuronpedia imports, or ``saedashboard``, what SAEDashboard writes for it.
    """
    Run.load(run)
    with claim(run), at_work("writing the report" if export is None else "writing the export"):
        if export is None:
            write_tables(run)
        written = write_report(run) if export is None else write_export(run, export)
    Console().print(
        f"{'report' if export is None else 'export'}: {written}", markup=False, highlight=False, soft_wrap=True
    )


def tables(run: Path, number: int | None = None, *, notes: bool = False) -> None:
    """Show the tables of a run, or one of them, from the run's files.

    Args:
        run: the run's folder.
        number: 1 to 4, or 0 for what training gives; all of them if not given.
        notes: show the notes too: where the figures are from, how the paper was read, what is not beaten.
    """
    for table in build_tables(run) if number is None else build_tables(run, [number]):
        Console().print(render_table(table, notes=notes))


def concepts(
    run: Path,
    *,
    search: str = "",
    sort: Order = "m",
    layer: int | None = None,
    expansion: int | None = None,
    most: int = MOST_LINES,
) -> None:
    """List the named concepts of a run, searched by a word and sorted.

    Args:
        run: the run's folder.
        search: a word in their names or captions.
        sort: the column to sort by, best first.
        layer: layer of the dictionary, if not the run's own.
        expansion: expansion of the dictionary, if not the run's own.
        most: most lines to show.
    """
    if most < 1:
        raise UserError(f"most {most} shows no line: give 1 or more")
    opened = Run.load(run)
    cell = opened.cell(opened.layer if layer is None else layer, opened.expansion if expansion is None else expansion)
    matches = find_concepts(cell, search, sort)
    for line in headline(opened):
        Console().print(line, style="bold", markup=False, highlight=False, soft_wrap=True)
    Console().print(render_concepts(matches[:most]))
    console.print(f"{len(matches[:most])} of {len(matches)} concepts, {cell.name}")
