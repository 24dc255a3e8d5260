"""Figures go from a run's files into docs/results.json and from there into the pages."""

import json
from copy import deepcopy

import pytest

from ard.results import Figure, Result, Row, write_json
from ard.steps import STEPS
from experiments import results, seeds

KEPT = json.loads(results.KEPT.read_text(encoding="utf-8"))


def test_only_blocks_are_replaced():
    page = "a 0.1\n<!-- table 1 -->\nold\n<!-- end -->\nb <!-- a comment -->\n<!-- run -->\n<!-- end -->\n"
    filled = results.fill(page, {"table 1": "| new |", "run": "- seed 0"})
    assert filled == (
        "a 0.1\n<!-- table 1 -->\n\n| new |\n\n<!-- end -->\n"
        "b <!-- a comment -->\n<!-- run -->\n\n- seed 0\n\n<!-- end -->\n"
    )
    assert results.fill(filled, {"table 1": "| new |", "run": "- seed 0"}) == filled


def test_a_block_that_nothing_makes_is_refused():
    with pytest.raises(KeyError, match="nothing"):
        results.fill("<!-- nothing -->\n<!-- end -->", {})


def test_rows_and_columns_keep_the_order_of_the_cells():
    cells = {("b", "y"): "1", ("a", "x"): "2", ("b", "x"): "3"}
    assert results.pivot(cells, "Method").splitlines() == [
        "| Method | y | x |",
        "| --- | --- | --- |",
        "| b | 1 | 3 |",
        "| a | – | 2 |",
    ]


def test_a_new_row_of_table_1_comes_into_the_summary_and_the_seeds_by_itself():
    kept = deepcopy(KEPT)
    kept["runs"] = [kept["runs"][0], {**deepcopy(kept["runs"][0]), "seed": 1}]
    for value, run in enumerate(kept["runs"], start=1):
        run["figures"].append([1, "New", "l = 3, e = 8", "f1", value / 10, 0.05, 0.25, 400])
    assert "| New | 0.10 [0.05, 0.25] | – | – | – | – | – |" in results.summary(kept).splitlines()
    assert "| New | – | – | – | 0.10 0.20 | – |" in results.seeds(kept["runs"]).splitlines()


def test_a_figure_without_a_value_is_a_dash():
    kept = deepcopy(KEPT)
    kept["runs"][0]["figures"].append([1, "New", "l = 3, e = 8", "f1", None, None, None, 0])
    assert "| New | – [–, –] | – | – | – | – | – |" in results.summary(kept).splitlines()


def test_the_steps_are_shown_as_they_are_written_down():
    head, _, *rows = results.steps().splitlines()
    assert head == "| Step | Needs | Makes | For tables | Runs | Costly |"
    assert [row.split("`")[1] for row in rows] == [step.name for step in STEPS]
    assert rows[2] == ("| `fit` | extract | `layer-<l>/e<e>/sae/` | 1, 2, 3, 4, concepts | `fit.yaml` | yes |")
    assert "| 4 | `test.yaml`: RetrieveRepresentatives, ScoreMonosemanticity | no |" in rows[5]


def test_one_run_has_no_other_seeds():
    assert results.seeds(KEPT["runs"][:1]) == "Only seed 0 has been run."


def test_notes_that_all_tables_share_are_said_once():
    note = "- This run: embedded; simulated sounds and voices, made from a seed; preset demo, layer 3, e = 8."
    assert all(note in lines for number, lines in KEPT["tables"].items() if number != "0")
    assert note in results.provenance(KEPT).splitlines()
    assert not any(note in results.table(KEPT, number) for number in (1, 2, 3, 4))


def test_the_figures_of_a_run_are_those_of_its_tables_and_of_its_cell(tmp_path):
    about = {"preset": "demo", "seed": 0, "model": "m", "data": "d", "layers": [1, 3], "layer": 3}
    write_json(tmp_path / "run.json", {**about, "expansions": [8], "expansion": 8, "p": 4, "num_selected": 2})
    area = Figure(0.9, 0.8, 1.0, 7, "AUROC")
    for layer in (1, 3):
        detection = Result("detection", (Row("AR&D", layer, 8, {"auroc": area}),), {})
        detection.save(tmp_path / f"layer-{layer}/e8/detection.json")
    sensitivity = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 9}
    row = {"method": "AR&D", "layer": 3, "expansion": 8, "source": "sad", "target": "happy", "sensitivity": sensitivity}
    write_json(
        tmp_path / "tables/table3.json", {"table": 3, "rows": [{**row, "paper": {"sensitivity": {"value": 0.68}}}]}
    )
    assert dict(seeds.figures(tmp_path)) == {
        (3, "AR&D", "sad to happy", "sensitivity"): sensitivity,
        (0, "AR&D", "l = 3, e = 8", "auroc"): vars(area),
    }
