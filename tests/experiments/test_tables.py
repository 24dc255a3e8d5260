"""What every table of the paper claims, prints and costs is in its README."""

import re
from pathlib import Path

import pytest

from ard.reports import paper
from experiments import readings, tables

READMES = {number: Path(f"experiments/table{number}/README.md") for number in (1, 2, 3, 4)}


@pytest.mark.parametrize("number", READMES)
def test_a_readme_has_claim_command_cost_and_the_papers_table(number):
    text = READMES[number].read_text(encoding="utf-8")
    for part in (
        "**Claim of the paper.**",
        f"make table{number}",
        "**What is not comparable.**",
        f"<!-- paper {number} -->",
    ):
        assert part in text
    assert re.search(r"\*\*Cost of the paper's setting\*\* by `ard plan`: \d+ hours", text)
    assert f"(../../docs/results.md#table-{number})" in text


@pytest.mark.slow
@pytest.mark.parametrize(("number", "hours"), [(1, 4), (2, 3), (3, 9), (4, 6)])
def test_a_table_costs_what_its_stages_cost(number, hours):
    text = tables.cost(number)
    cells = [line.split("|")[5].strip() for line in text.splitlines()[4:] if line.startswith("|")]
    assert round(sum(float(cell) for cell in cells if cell)) == hours
    assert ("steering" in text) == (number == 3)
    assert ("e 4, 8, 16" in text) == (number == 4)


def test_the_readings_are_other_readings_of_the_table():
    words = [other.words for other in readings.OTHERS]
    assert len(set(words)) == len(words) == 17
    assert readings.OTHERS[0] == readings.Other("as in the table")
    for other in readings.OTHERS[1:]:
        assert other.reading or other.options
    assert set(readings.METHODS) <= set(paper.METHODS)


@pytest.mark.parametrize(
    ("number", "row"),
    [
        (1, "| Rand. Rep. | 26 | 2.13 ± 0.08 | 0.11 ± 0.05 | 0.23 ± 0.06 | 0.15 ± 0.04 | 0.10 ± 0.05 |"),
        (2, "| AR&D | 4.29 ± 0.81 | 0.84 ± 0.20 | 0.92 ± 0.11 |"),
        (3, "| Poly. Feats. | 0.13 | 0.08 | 0.04 | 0.09 |"),
        (4, "| Poly. Feats. | – | 0.68 | 1.02 | 1.14 |"),
    ],
)
def test_the_papers_tables_are_as_it_prints_them(number, row):
    assert row in tables.printed(number).splitlines()
