"""The page on hearing and reading shows what runs hold, and what is kept of them."""

import json
import math

from ard.evaluation.hearing import CONDITIONS
from ard.results import Figure, Result
from ard.run import Run
from experiments import hearing

FACTS = {"preset": "demo", "seed": 4, "model": "embedded", "data": "clips", "layers": [3], "expansions": [8]}
FACTS |= {"layer": 3, "expansion": 8, "p": 4, "num_selected": 3}


def test_the_page_is_made_of_what_is_kept():
    text = hearing.PAGE.read_text(encoding="utf-8")
    assert hearing.page(text, json.loads(hearing.KEPT.read_text(encoding="utf-8"))) == text


def test_what_is_shown_of_a_run_is_what_its_files_say(tmp_path):
    run = Run.open(tmp_path, FACTS)
    cell, of = run.own, [math.nan, 0.25, 0.75]
    rows = [
        {"feature": n, "name": f"name {n}", "contradicts": "rain", **dict.fromkeys(CONDITIONS, 1.5)} for n in range(3)
    ]
    rows = [{**row, "hearing": of[n], "hearing_low": 0.0, "hearing_high": math.nan} for n, row in enumerate(rows)]
    cell.save_rows("modality", rows)
    figures = {name: Figure(0.5, 0.25, 0.75, 2, "index") for name in ("hearing", "audio_wins")}
    shares = {name: Figure(0.5, 0.1, 0.9, 2, "share") for name in ("share_hearing", "share_reading")}
    shuffled = cell.row({"hearing": Figure(math.nan, math.nan, math.nan, 0, "index")}, control="names shuffled")
    details = {"num_concepts": 3, "num_neither": 1}
    result = Result("modality", (cell.row(figures | shares), shuffled), {"num_pairs": 4}, details)
    result.save(cell.result_path("modality"))
    first, _, least = hearing.block(hearing.collect([tmp_path])).split("\n\n")
    assert first.splitlines()[2] == (
        "| demo, seed 4 | 3 | 3 | 4 | 1 | 0.50 [0.25, 0.75] | – | 0.50 [0.25, 0.75] | 50% | 50% |"
    )
    assert [line.split(" | ")[0] for line in least.splitlines()[2:]] == ["| name 1", "| name 2"]
