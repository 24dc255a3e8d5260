import math
import re

import pytest

from ard.reports import write_report
from ard.reports.doses import HEIGHT, LEFT, RIGHT, WIDTH, dose_drawings, drawn
from ard.results import Figure, Result, Row
from ard.run import Run


def point(multiple, sensitivity, perplexity, readable=1.0):
    figure = {"value": sensitivity, "low": None if sensitivity is None else 0.0, "high": sensitivity, "n": 9}
    return {"multiple": multiple, "sensitivity": figure, "readable": {"value": readable}, "perplexity": perplexity}


POINTS = [point(None, 0.0, 2.0), point(0.0, 0.0, 2.5), point(1.0, 0.5, 100.0, 0.75), point(4.0, 1.0, 90.0, 0.0)]
TASK = {"chosen": {"multiple": 4.0}, "dose_response": POINTS}


def numbers(path):
    return [float(number) for number in re.findall(r"-?[\d.]+", path)]


def test_points_stand_where_their_numbers_say():
    made = drawn("sad to happy", TASK)
    xs, ys = numbers(made.sensitivity)[::2], numbers(made.sensitivity)[1::2]
    assert xs == [LEFT, pytest.approx((LEFT + WIDTH - RIGHT) / 2), WIDTH - RIGHT]
    assert ys[0] == HEIGHT
    assert ys[0] > ys[1] > ys[2] == 8
    assert [mark.label for mark in made.doses] == ["SAE only", "1×", "4×"]
    assert made.chosen == WIDTH - RIGHT
    surprise = numbers(made.perplexity)[1::2]
    assert surprise[1] < surprise[2] < surprise[0] < made.unsteered
    assert [mark.label for mark in made.perplexities] == ["1", "10", "100"]
    assert made.rows[0] == ("no SAE", "0.00", "1.00", "2")
    assert made.rows[2] == ("1×", "0.50", "0.75", "100")


def test_a_missing_number_breaks_the_line():
    made = drawn("a to b", {**TASK, "dose_response": [*POINTS[:2], point(1.0, None, None, None), *POINTS[3:]]})
    assert made.sensitivity.count("M") == made.perplexity.count("M") == 2
    assert made.rows[2] == ("1×", "–", "–", "–")
    assert "nan" not in made.interval


def test_a_chosen_value_that_is_no_dose_is_not_marked():
    assert drawn("a to b", {**TASK, "chosen": {"multiple": 3.0}}).chosen is None


def test_the_page_shows_every_task_and_leaves_the_section_out_without_any(run):
    assert 'id="doses"' not in write_report(run).read_text(encoding="utf-8")
    row = Row("AR&D", 3, 8, {"sensitivity": Figure(0.5, 0.4, 0.6, 9, "share")}, "sad", "<happy>")
    details = {"tasks": {"sad to <happy>": TASK, "female to male": TASK, "no doses": {"dose_response": []}}}
    Result("steering", (row,), {}, details).save(run / "layer-3/e8/steering.json")
    assert len(dose_drawings(Run.load(run))) == 2
    page = write_report(run).read_text(encoding="utf-8")
    assert page.count('class="dose"') == 2
    assert "Sad → &lt;happy&gt;" in page
    assert "nan" not in page[page.index('id="doses"') : page.index("</section>", page.index('id="doses"'))].lower()
    assert math.isclose(page.count('class="perplexity"'), 2)
