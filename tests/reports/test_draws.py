import math

import pytest

from ard.reports import write_report
from ard.reports.doses import LEFT, RIGHT, WIDTH
from ard.reports.draws import BARS, NUM_BINS, STRIP, Drawn, draw_drawings, drawn
from ard.reports.tables import build_tables
from ard.results import Figure, Result, Row
from ard.run import Run

SHARES = [0.0, 0.0, 0.04, 0.5, 1.0]


def test_bars_count_draws_and_ours_stands_where_it_is():
    made = drawn("sad to happy", [Drawn("AR&D", "features", SHARES, 0.75, 1 / 3, 24)])
    (strip,) = made.strips
    width = WIDTH - LEFT - RIGHT
    assert strip.title == "AR&D among 5 random features: p = 0.33"
    assert strip.ours == LEFT + 0.75 * width
    assert [(bar.x - LEFT) / width for bar in strip.bars] == pytest.approx([0, 0.5, 1 - 1 / NUM_BINS])
    assert [bar.height / BARS for bar in strip.bars] == pytest.approx([1, 1 / 3, 1 / 3])
    assert {bar.y + bar.height for bar in strip.bars} == {strip.base} == {STRIP}
    assert made.rows == [("AR&D, features", "0.00", "0.00", "0.04", "0.50", "1.00", "0.75", "0.33")]


def ranked(shares, ours, p):
    drawn = [{"sensitivity": {"value": None if math.isnan(share) else share}} for share in shares]
    return {"draws": drawn, "ours": {"value": ours, "n": 24}, "p": p}


def save(folder, method, tasks):
    row = Row(method, 3, 8, {"sensitivity": Figure(0.5, 0.4, 0.6, 24, "share")}, "sad", "happy")
    choices = {"denominator": "predicted", "num_draws": 3, "judge": "exact match of the answer's class"}
    Result("steering", (row,), choices, {"tasks": tasks}).save(folder / "steering.json")


def test_the_page_and_the_table_show_the_draws_of_ours_and_of_the_untrained_dictionary(run):
    assert 'id="draws"' not in write_report(run).read_text(encoding="utf-8")
    both = {"random_features": ranked(SHARES, 0.5, 0.5), "random_directions": ranked([0.0, 0.1], 0.5, 1 / 3)}
    without = {"random_features": ranked([], 0.0, None), "random_directions": {"draws": [], "ours": {}, "p": None}}
    save(run / "layer-3/e8", "AR&D", {"sad to <happy>": both, "a to b": without, "poly to raw": {}})
    untrained = run / "layer-3/e8-untrained-0"
    untrained.mkdir(parents=True, exist_ok=True)
    save(untrained, "Untrained SAE", {"sad to <happy>": {"random_features": ranked([math.nan, 0.25], 0.25, 1.0)}})
    (drawing,) = draw_drawings(Run.load(run))
    assert [strip.title for strip in drawing.strips] == [
        "AR&D among 5 random features: p = 0.50",
        "AR&D among 2 random directions: p = 0.33",
        "Untrained SAE among 1 random features: p = 1.00",
    ]
    assert drawing.height == 3 * STRIP
    page = write_report(run).read_text(encoding="utf-8")
    section = page[page.index('id="draws"') : page.index("</section>", page.index('id="draws"'))]
    assert section.count('class="dose draws"') == 1
    assert section.count("<rect") == sum(len(strip.bars) for strip in drawing.strips)
    assert "Sad → &lt;happy&gt;" in section
    assert "nan" not in section.lower()
    (table,) = (table for table in build_tables(run) if table.number == 3)
    (note,) = (note for note in table.notes if "beside Untrained SAE's on the same clips" in note)
    assert note.endswith("sad to <happy>, 1 random features 0.25 0.25 0.25 0.25 0.25 (Untrained SAE 0.25, p = 1.00).")
