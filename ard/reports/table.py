"""A table as printed, and its forms for the terminal, Markdown and LaTeX."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import rich.box
import rich.table
from rich.text import Text

from ard.reports.paper import Printed
from ard.results import Figure


class Cell(NamedTuple):
    """One place of a printed table: this run's figure and the paper's, either of which may be missing."""

    ours: Figure | None = None
    paper: Printed | None = None


class Line(NamedTuple):
    """One line of a printed table: its name (a text for each of ``stub_heads``), and its cells.

    ``is_own`` says whether it belongs to the method that the run is about, as :attr:`ard.results.Row.is_own` does.
    """

    stub: tuple[str, ...]
    cells: tuple[Cell, ...]
    is_own: bool = False


@dataclass(frozen=True)
class Table:
    """One of the paper's tables, as printed (``lines``, in the paper's layout) and as data (``rows``, for JSON).

    Each of ``heads`` spans two columns: this run's figure, then the paper's under the head in ``paper_heads``. A table
    that the paper does not have has number 0, and no ``paper_heads``.
    A table for which the run measured nothing has no lines, and a note that says why.
    """

    number: int
    preset: str
    title: str
    stub_heads: tuple[str, ...]
    heads: tuple[str, ...]
    paper_heads: tuple[str, ...]
    lines: tuple[Line, ...]
    rows: tuple[dict[str, Any], ...]
    notes: tuple[str, ...]

    @property
    def caption(self) -> str:
        """The table's number, if it is one of the paper's, and title."""
        return f"Table {self.number}. {self.title}" if self.number else self.title

    @property
    def columns(self) -> list[str]:
        """The heads of all columns."""
        if not self.paper_heads:
            return [*self.stub_heads, *self.heads]
        return [*self.stub_heads, *(head for pair in zip(self.heads, self.paper_heads, strict=True) for head in pair)]

    def texts(self, line: Line) -> list[str]:
        """Return a line's figures with their intervals, and the paper's, as texts under ``columns``."""
        ours = [f"{value_text(cell.ours)} {interval_text(cell.ours)}".strip() for cell in line.cells]
        if not self.paper_heads:
            return [*line.stub, *ours]
        theirs = [paper_text(cell.paper) for cell in line.cells]
        return [*line.stub, *(text for pair in zip(ours, theirs, strict=True) for text in pair)]


def value_text(figure: Figure | None) -> str:
    """Return a figure with two decimals, as the paper prints them, and its spread; a dash where there is none."""
    if figure is None or not math.isfinite(figure.value):
        return "–"
    return f"{figure.value:.2f}" + (f" ± {figure.spread:.2f}" if figure.spread is not None else "")


def interval_text(figure: Figure | None) -> str:
    """Return the 95 % interval of a figure; nothing where there is none."""
    if figure is None or not all(map(math.isfinite, (figure.value, figure.low, figure.high))):
        return ""
    return f"[{figure.low:.2f}, {figure.high:.2f}]"


def paper_text(printed: Printed | None) -> str:
    """Return a figure of the paper as it is printed there; a dash where it has none."""
    if printed is None:
        return "–"
    return f"{printed.value:.2f}" + (f" ± {printed.plus_minus:.2f}" if printed.plus_minus is not None else "")


def render_table(table: Table, *, notes: bool = True) -> rich.table.Table:
    """Lay a table out for the terminal, within 80 columns: under each figure its interval, then the paper's figure.

    Args:
        table: the table.
        notes: whether its notes stand below; why a table has no lines is always said.
    """
    grid = rich.table.Table(
        title=Text(table.caption, "bold"),
        title_justify="left",
        caption=Text("\n".join(table.notes), "dim") if notes and table.lines else None,
        caption_justify="left",
        box=rich.box.SIMPLE_HEAD,
        show_header=bool(table.lines),
        pad_edge=False,
    )
    if not table.lines:
        grid.add_row(Text("\n".join(table.notes), "dim"))
        return grid
    for head in table.stub_heads:
        grid.add_column(head)
    for head in table.heads:
        grid.add_column(head, justify="right")
    for line in table.lines:
        blank = [""] * (len(line.stub) - 1)
        grid.add_row(*line.stub, *(Text(value_text(cell.ours).replace(" ", ""), "bold") for cell in line.cells))
        # without brackets and spaces, so that five figures and a method fit 80 columns
        spans = (interval_text(cell.ours).strip("[]").replace(", ", "–") for cell in line.cells)
        grid.add_row("", *blank, *spans, style="dim")
        if any(cell.paper for cell in line.cells):
            theirs = (paper_text(cell.paper).replace(" ", "") for cell in line.cells)
            grid.add_row("  paper", *blank, *theirs, style="dim italic")
    return grid


def markdown(table: Table) -> str:
    """Return a table as Markdown, each column of this run followed by the paper's."""
    num_stubs = len(table.stub_heads)
    rule = ["---"] * num_stubs + ["---:"] * (len(table.columns) - num_stubs)
    lines = [table.columns, rule, *map(table.texts, table.lines)]
    grid = "\n".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines)
    notes = "\n".join(f"- {note}" for note in table.notes)
    return f"**{table.caption}**\n\n{grid}\n\n{notes}\n"


def latex(table: Table) -> str:
    """Return a table as LaTeX, for the package booktabs, each column of this run followed by the paper's in italics."""
    num_stubs = len(table.stub_heads)
    heads = [*map(_tex, table.columns)]
    if table.paper_heads:
        heads[num_stubs + 1 :: 2] = [rf"\textit{{{head}}}" for head in heads[num_stubs + 1 :: 2]]
    rows = [" & ".join(line) + r" \\" for line in (heads, *(map(_tex, table.texts(line)) for line in table.lines))]
    columns = "l" * num_stubs + "r" * (len(heads) - num_stubs)
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_tex(table.title)}. {_tex(' '.join(table.notes))}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            rows[0],
            r"\midrule",
            *rows[1:],
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


_TEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"→": r"$\rightarrow$", "±": r"$\pm$", "–": "--", "<": "$<$", ">": "$>$", "≥": r"$\geq$", "×": r"$\times$"},
}


def _tex(text: str) -> str:
    return "".join(_TEX.get(character, character) for character in text)
