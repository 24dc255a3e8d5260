import re

import pytest

from ard.reports import write_report
from ard.reports.doses import LEFT, RIGHT, TOP, WIDTH
from ard.reports.layers import HEIGHT, MOST_LABELS, drawn, layer_drawings
from ard.reports.tables import build_tables
from ard.results import Figure, Result, Row
from ard.run import Run
from tests.reports.test_doses import TASK


def at(layer, value, low, high, n=8):
    return {"layer": layer, "norm": 12.5, "effect": {"value": value, "low": low, "high": high, "n": n}}


LAYERS = [at(1, 2.0, 1.0, 4.0), at(2, 1.0, 0.5, 1.5), at(3, -1.0, -2.0, 0.0)]
DIAGNOSIS = {
    "wrong": ["0.01 of the answers turn", "p = 0.40 among 100 random features"],
    "causes": [
        {"cause": "named but without effect", "because": "none of <2> features"},
        {"cause": "the answer is read from an earlier layer", "because": "+2.0 nats at layer 1"},
    ],
}
SAID = (
    "AR&D is not shown to work (0.01 of the answers turn, p = 0.40 among 100 random features). Why? Named but without "
    "effect: none of <2> features; the answer is read from an earlier layer: +2.0 nats at layer 1."
)


def numbers(path):
    return [float(number) for number in re.findall(r"-?[\d.]+", path)]


def test_layers_stand_where_their_numbers_say():
    made = drawn("sad to happy", LAYERS, 3)
    xs, ys = numbers(made.effect)[::2], numbers(made.effect)[1::2]
    assert xs == [LEFT, pytest.approx((LEFT + WIDTH - RIGHT) / 2), WIDTH - RIGHT]
    unit = (HEIGHT - TOP) / 6  # from -2 to 4
    assert ys == pytest.approx([TOP + 2 * unit, TOP + 3 * unit, TOP + 5 * unit], abs=0.06)
    assert [(mark.label, mark.at) for mark in made.nats] == [("-2", HEIGHT), ("0", TOP + 4 * unit), ("4", TOP)]
    assert [mark.label for mark in made.layers] == ["1", "2", "3"]
    assert made.own == WIDTH - RIGHT
    assert (made.n, made.rows[0]) == (8, ("1", "+2.00 [+1.00, +4.00]", "12.5"))
    assert drawn("sad to happy", LAYERS, 7).own is None
    close = drawn("sad to happy", [*LAYERS[:2], at(3, 0.0, -0.1, 0.1)], 3)
    assert [mark.label for mark in close.nats] == ["0", "4"]


def test_many_layers_have_few_labels_and_no_effect_is_a_flat_line():
    made = drawn("a to b", [at(layer, 0.0, None, None, 1) for layer in range(32)], 16)
    assert 2 < len(made.layers) <= MOST_LABELS
    assert set(numbers(made.effect)[1::2]) == {TOP}
    assert made.interval == ""
    assert made.rows[31] == ("31", "+0.00", "12.5")


def save(run, tasks):
    row = Row("AR&D", 3, 8, {"sensitivity": Figure(0.01, 0.0, 0.6, 9, "share")}, "sad", "happy")
    choices = {"denominator": "predicted", "num_draws": 3, "judge": "exact match of the answer's class"}
    Result("steering", (row,), choices, {"tasks": tasks}).save(run / "layer-3/e8/steering.json")


def test_the_page_shows_layers_beside_doses_and_says_what_is_wrong(run):
    works = {"layers": LAYERS, "diagnosis": None}
    save(run, {"sad to happy": {**TASK, "layers": LAYERS, "diagnosis": DIAGNOSIS}, "female to male": works})
    assert [drawing.task for drawing in layer_drawings(Run.load(run))] == ["sad to happy", "female to male"]
    page = write_report(run).read_text(encoding="utf-8")
    section = page[page.index('id="doses"') : page.index("</section>", page.index('id="doses"'))]
    assert section.count('class="dose"') == 1
    assert section.count('class="dose layers"') == 2
    assert section.index('class="dose"') < section.index('class="dose layers"')
    assert section.count('class="diagnosis"') == 1
    assert SAID.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") in section
    assert "nan" not in section.lower()


def test_table_3_says_what_is_wrong_shift_by_shift(run):
    save(run, {"sad to happy": {"diagnosis": DIAGNOSIS}, "female to male": {"diagnosis": None}, "old": {}})
    (table,) = (table for table in build_tables(run) if table.number == 3)
    assert f"Sad → Happy: {SAID}" in table.notes
    assert sum("is not shown to work" in note for note in table.notes) == 1


def test_where_no_cause_applies_that_is_said(run):
    save(run, {"sad to happy": {"diagnosis": {**DIAGNOSIS, "causes": []}}})
    (table,) = (table for table in build_tables(run) if table.number == 3)
    assert any("Why? None of the causes that are looked for applies." in note for note in table.notes)
