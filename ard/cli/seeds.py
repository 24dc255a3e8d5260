"""The command that says what of a run comes back with another seed: `ard seeds`."""

import math
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ard.console import at_work
from ard.evaluation import compare_seeds
from ard.evaluation.seeds import NAME_NULLS, NULLS, WORDS
from ard.files import claim
from ard.reports import write_tables
from ard.results import Figure, Result
from ard.run import Run
from ard.tracking import log_results

MOST_LINES = 20  # of a list that may have thousands
WIDTH = 150  # of the table in a file
SHORT = dict(
    zip(
        (*NULLS, *NAME_NULLS),
        ("shuffled", "rotated", "Gaussian", "tokens", "permuted", "raw", "random clips"),
        strict=True,
    )
)


def seeds(runs: list[Path], cosine: float = 0.7) -> None:
    """Measure what of a run comes back in runs with another --seed, beside nulls; Table 4 then notes it.

    Args:
        runs: folders of runs; the first is compared with all others.
        cosine: least cosine, or correlation of profiles, of two features that count as the same.
    """
    with claim(runs[0]), at_work("comparing the runs"):
        result = compare_seeds([Run.load(run).own for run in runs], cosine=cosine)
        write_tables(runs[0])
        log_results(Run.load(runs[0]))
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    for line in concept_lines(result):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(seeds_table(result))
    for line in (*result.details["not_measured"], str(result.details["verdict"])):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def concept_lines(result: Result) -> list[str]:
    """Return the first concepts, each with the nearest directions in the other runs."""
    lines = []
    for concept in result.details["concepts"][:MOST_LINES]:
        nearest = ", ".join(
            f"{where['name'] or where['feature']} ({where['cosine']:.2f})" for where in concept["elsewhere"]
        )
        lines.append(f"{concept['name'] or concept['feature']}: {nearest}")
    return lines


def seeds_table(result: Result) -> Table:
    """Return every measure with its interval, and beside it what every null gives."""
    own, *controls = result.rows
    nulls = {row.method.partition(", ")[2]: row.figures for row in controls}
    num_others, cosine = len(result.details["runs"]) - 1, result.choices["cosine"]
    table = Table(
        title=f"{num_others} other run{'s' if num_others > 1 else ''}, features paired one to one",
        caption="95 % intervals over features, of these dictionaries alone; nulls replace the other dictionary, or for "
        "names the concepts'",
    )
    for column in ("measure", "of", "figure", "value", *(SHORT[name] for name in nulls)):
        table.add_column(column)
    for measure, words in WORDS.items():
        for suffix, of in (("", "top-C"), ("_live", "live")):
            for figure, measure_text in (
                (f"{measure}_mcc{suffix}", "mean"),
                (f"{measure}_share{suffix}", "equal" if measure == "name" else f">= {cosine:g}"),
            ):
                if figure in own.figures:
                    measured = own.figures[figure]
                    values = (_value(figures.get(figure)) for figures in nulls.values())
                    table.add_row(words, f"{of}, {measured.n}", measure_text, _with_interval(measured), *values)
    return table


def _with_interval(figure: Figure) -> str:
    return f"{figure.value:.2f} [{figure.low:.2f}, {figure.high:.2f}]"


def _value(figure: Figure | None) -> str:
    return "" if figure is None or math.isnan(figure.value) else f"{figure.value:.2f}"
