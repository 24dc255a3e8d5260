"""What every table claims, costs and gave stands in its README, and comes from a run's files."""

import re
import shutil
from pathlib import Path

import pytest

from ard.plan import plan
from ard.presets import preset_files
from ard.reports import paper
from experiments import readings, tables

READMES = {number: tables.FOLDER / f"table{number}" / "README.md" for number in (1, 2, 3, 4)}


@pytest.fixture(scope="module")
def planned():
    return plan(
        preset_files("paper", {}, ("extract", "fit", "test", "steer")), gpu="H100", utilisation=0.4, disk=Path()
    )


@pytest.mark.parametrize("number", READMES)
def test_a_readme_has_claim_command_cost_and_figures(number):
    text = READMES[number].read_text(encoding="utf-8")
    for part in ("**Claim of the paper.**", f"make table{number}", "**What is not comparable.**", "**Measured** on 2"):
        assert part in text
    _, below = text.split(tables.MARK)
    assert re.search(r"\*\*Cost of the paper's setting\*\* by `ard plan`: \d+ hours", below)
    assert f"**Table {number}. " in below
    assert "95 % interval" in below


@pytest.mark.parametrize(("number", "hours"), [(1, 12), (2, 6), (3, 7), (4, 28)])
def test_a_table_costs_what_its_stages_cost(planned, number, hours):
    found = tables.cost(number, planned)
    cells = [line.split("|")[5].strip() for line in found.splitlines()[4:] if line.startswith("|")]
    assert round(sum(float(cell) for cell in cells if cell)) == hours
    assert ("steering" in found) == (number == 3)
    assert ("e 16" in found) == (number == 4)


def test_the_readings_are_other_readings_of_the_table():
    words = [other.words for other in readings.OTHERS]
    assert len(set(words)) == len(words) == 16
    assert readings.OTHERS[0] == readings.Other("as in the table")
    for other in readings.OTHERS[1:]:
        assert other.reading or other.options
    assert set(readings.METHODS) <= set(paper.METHODS)


def test_what_stands_above_the_mark_stays(tmp_path, planned, monkeypatch):
    monkeypatch.setattr(tables, "measured", lambda number, run: f"figures of {run.name}, table {number}\n")
    copies = {number: shutil.copy(path, tmp_path / f"{number}.md") for number, path in READMES.items()}
    tables.write(tmp_path, copies)
    for number, path in copies.items():
        above, below = path.read_text(encoding="utf-8").split(tables.MARK)
        assert above == READMES[number].read_text(encoding="utf-8").split(tables.MARK)[0]
        assert below.endswith(f"figures of {tmp_path.name}, table {number}\n")
