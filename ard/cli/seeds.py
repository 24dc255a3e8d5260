"""The command that says what of a run comes back with another seed: `ard seeds`."""

import math
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ard.console import at_work
from ard.evaluation import compare_seeds, pool_steering
from ard.evaluation.seeds import NAME_NULLS, WORDS
from ard.evaluation.vectors import NULLS
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
    """Measure what of a run comes back in runs with another --seed, beside nulls; Tables 3 and 4 then note it.

    Args:
        runs: folders of runs; the first is compared with all others.
        cosine: least cosine, or correlation of profiles, of two features that count as the same.
    """
    with claim(runs[0]), at_work("comparing the runs"):
        opened = [Run.load(run) for run in runs]
        result, steered = compare_seeds([run.own for run in opened], cosine=cosine), pool_steering(opened)
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
    if steered is not None:
        console.print(steering_table(steered))


def steering_table(result: Result) -> Table:
    """Return Table 3 over the runs: mean, standard deviation, and in how many of them AR&D is above and below a row."""
    shifts = list(dict.fromkeys((row.source, row.target) for row in result.rows))
    claims = {(one["other"], one["source"], one["target"]): one for one in result.details["claims"]}
    seeds = ", ".join(map(str, result.choices["seeds"]))
    table = Table(
        title=f"Sensitivity over the seeds {seeds}",
        caption="mean ± standard deviation over the runs; in how many of them AR&D is above (+) and below (-) the row",
    )
    for column in ("method", *(f"{source} to {target}" for source, target in shifts)):
        table.add_column(column)
    for method in dict.fromkeys(row.method for row in result.rows):
        cells = []
        for source, target in shifts:
            rows = [row for row in result.rows if (row.method, row.source, row.target) == (method, source, target)]
            claim_of_row = claims.get((method, str(source), str(target)), {})
            counted = f" +{claim_of_row.get('above', 0)} -{claim_of_row.get('below', 0)}" if claim_of_row else ""
            figures = [row.figures["sensitivity"] for row in rows]
            cells.append("".join(f"{figure.value:.2f} ± {figure.spread:.2f}{counted}" for figure in figures))
        table.add_row(method, *cells)
    return table


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
