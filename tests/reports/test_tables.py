"""Tables: this run's figures, the paper's beside them, in the paper's order; what is missing is said."""

import io
import json
import math
import re
from dataclasses import asdict, replace

import pytest
from rich.console import Console

from ard.evaluation import MatchReading
from ard.reports import build_tables, paper, render_table, write_tables
from ard.reports.notes import unbeaten
from ard.reports.paper import Printed, counterparts
from ard.reports.table import Cell, Line
from ard.results import Figure, Result, Row
from ard.run import Run
from ard.types import UserError


def printed(table, width=80):
    console = Console(file=io.StringIO(), width=width)
    console.print(render_table(table))
    return console.file.getvalue()


def test_the_papers_figures_agree_with_each_other():
    for (method, layer), figures in paper.TABLE1.items():
        precision, recall, f1 = (figures[name].value for name in ("precision", "recall", "f1"))
        assert abs(2 * precision * recall / (precision + recall) - f1) < 0.01, (method, layer)
    assert paper.TABLE1["Poly. Feats.", 26]["ms"] == paper.TABLE4["Poly. Feats.", None][26]
    # what the note under Table 1 says of the paper's misprint
    column = [paper.TABLE4["AR&D", e][26] for e in (4, 8, 16)]
    assert [paper.TABLE1["AR&D", layer]["ms"] for layer in paper.LAYERS] == column
    assert paper.TABLE3["AR&D"]["female", "male"] == Printed(0.61)


@pytest.mark.parametrize(
    ("layers", "main", "expected"),
    [
        ((3, 1, 2), 3, {1: 5, 2: 16, 3: 26}),
        ((1, 2, 3), 2, {2: 26}),
        ((2,), 2, {2: 26}),
        ((5, 16, 26), 16, {5: 5, 16: 16, 26: 26}),
        ((16,), 16, {16: 16}),
    ],
)
def test_a_layer_stands_beside_the_papers_by_depth(layers, main, expected):
    assert counterparts(layers, main) == expected


def test_table1_has_the_papers_rows_and_figures(run):
    write_tables(run)
    saved = json.loads((run / "tables/table1.json").read_text(encoding="utf-8"))
    assert (saved["table"], saved["preset"], set(saved)) == (1, "demo", {"table", "preset", "rows"})
    assert [row["method"] for row in saved["rows"]] == list(paper.COMPARED)
    for row in saved["rows"]:
        assert (row["layer"], row["expansion"]) == (3, None if row["method"] == "Poly. Feats." else 8)
        assert row["f1"] == {"value": 0.5, "low": 0.4, "high": 0.6, "n": 40}
        assert set(row) == {"method", "layer", "expansion", "ms", "precision", "recall", "f1", "map", "paper"}
    assert saved["rows"][-1]["paper"]["f1"] == {"value": 0.60}
    assert saved["rows"][-1]["paper"]["layer"] == 26
    assert saved["rows"][1]["paper"]["f1"] == {"value": 0.15, "plus_minus": 0.04}


def test_table1_takes_ard_of_every_layer_but_the_baselines_of_the_runs_own(run):
    figures = {"f1": Figure(0.3, 0.2, 0.4, 9, "share")}
    rows = tuple(Row(method, 1, 8, figures) for method in ("AR&D", "Coverage"))
    Result("matching", rows, {}).save(run / "layer-1/e8/matching.json")
    table = build_tables(run, [1])[0]
    assert [line.stub[0] for line in table.lines][-3:] == ["Coverage", "AR&D (l = 1)", "AR&D (l = 3)"]
    assert table.rows[-2]["paper"]["f1"] == {"value": 0.49}
    assert "precision" not in table.rows[-2]


def test_table1_says_how_the_paper_was_read_and_holds_ours_against_every_row_but_the_ceiling(run):
    figures = {"f1": Figure(0.5, 0.45, 0.55, 9, "share"), "map_at_matches": Figure(0.4, 0.3, 0.5, 9, "share")}
    rows = [Row(method, 3, 8, figures) for method in ("AR&D", paper.SHUFFLED, paper.CEILING)]
    choices = {**asdict(MatchReading(threshold="before")), "activity": 0.5, "active_by": "share"}
    higher, lower = ({"f1": {"value": x, "low": x - 0.02, "high": x + 0.03, "p": 0.1}} for x in (0.1, -0.1))
    between = {"Coverage": {"AR&D": lower}, "AR&D": {paper.SHUFFLED: higher, paper.CEILING: lower}}
    Result("matching", tuple(rows), choices, {"differences": between}).save(run / "layer-3/e8/matching.json")
    table = build_tables(run, [1])[0]
    assert [line.stub[0] for line in table.lines] == ["Poly. Feats.", "AR&D (l = 3)", paper.SHUFFLED, paper.CEILING]
    (read,) = (note for note in table.notes if note.startswith("Read as: "))
    assert "hungarian assignment, cosine at least 0.7, applied before it; micro-averaged" in read
    assert "above 0 and at least 0.5 of that of the weakest clip in H^k" in read
    assert "Rand. Rep." not in read
    drawn = {"random_from": "active", "random_lowest": True}
    Result("monosemanticity", (Row("AR&D", 3, 8, {}),), drawn).save(run / "layer-3/e8/monosemanticity.json")
    said = "Rand. Rep. draws H^k from the clips where the feature is active, and L^k is drawn too."
    assert any(said in note for note in build_tables(run, [1])[0].notes)
    (paired,) = (note for note in table.notes if note.startswith("AR&D's F1 minus another row's, the same clips"))
    spans = f"Coverage +0.10 [+0.07, +0.12]; {paper.SHUFFLED} +0.10 [+0.08, +0.13]"
    assert paired.endswith(f"resampled: {spans}; {paper.CEILING} -0.10 [-0.12, -0.07].")
    assert any(note.endswith(f"AR&D 0.40, {paper.SHUFFLED} 0.40, {paper.CEILING} 0.40.") for note in table.notes)


def test_table3_has_controls_first_and_the_papers_shifts(run):
    saved = json.loads((write_tables(run) and run / "tables/table3.json").read_text(encoding="utf-8"))
    shifts = [(row["source"], row["target"]) for row in saved["rows"]]
    assert shifts == list(paper.SHIFTS) * 4
    assert [row["method"] for row in saved["rows"][::4]] == ["No SAE", "SAE, no clamp", "Poly. Feats.", "AR&D"]
    assert saved["rows"][0]["sensitivity"]["value"] == 0.5
    assert "paper" not in saved["rows"][0]
    assert [row["paper"]["sensitivity"]["value"] for row in saved["rows"][-4:]] == [0.75, 0.68, 0.47, 0.61]
    assert build_tables(run, [3])[0].heads[0] == "Neutral → Happy"


def steered(run, values, at_equal_damage):
    """Write steering results of one shift, from a sensitivity a method, each 0.1 wide to both sides."""
    figures = {method: {"sensitivity": Figure(x, x - 0.1, x + 0.1, 9, "share")} for method, x in values.items()}
    for method, x in at_equal_damage.items():
        figures[method]["sensitivity_at_equal_damage"] = Figure(x, x - 0.1, x + 0.1, 9, "share")
    rows = tuple(Row(method, 3, 8, f, "happy", "angry") for method, f in figures.items())
    choices = {"denominator": "truth", "num_draws": 5, "judge": "exact match of the answer's class"}
    Result("steering", rows, choices, {"tasks": {"happy to angry": {}}}).save(run / "layer-3/e8/steering.json")
    return build_tables(run, [3])[0]


def test_table3_has_two_measures_where_damage_was_measured(run):
    values = {"Reverse": 1.0, "AR&D": 0.9, "AR&D, by effect": 0.8, "Rand. Feats.": 0.2, "Prompt": 0.1, "No SAE": 0.0}
    table = steered(run, values, {"AR&D": 0.6})
    assert [line.stub for line in table.lines] == [
        ("No SAE", "turned"),
        ("Rand. Feats.", "turned"),
        ("Prompt", "turned"),
        ("AR&D", "turned"),
        ("", "with 90% of the rest kept"),
        ("AR&D, by effect", "turned"),
        ("Reverse", "turned"),
    ]
    assert [line.cells[0].ours.value for line in table.lines[3:5]] == [0.9, 0.6]
    assert table.lines[4].cells[0].paper is None
    assert not any("above that of every control" in note for note in table.notes)
    assert table.notes[-1].startswith("Sensitivity: of the clips that truly belong to the source class")


def test_table4_is_layers_by_expansions(run):
    saved = json.loads((write_tables(run) and run / "tables/table4.json").read_text(encoding="utf-8"))
    where = [(row["method"], row["expansion"], row["layer"]) for row in saved["rows"]]
    assert where == [("Poly. Feats.", None, layer) for layer in (1, 2, 3)] + [
        ("AR&D", e, layer) for e in (4, 8, 16) for layer in (1, 2, 3)
    ]
    for row in saved["rows"]:
        assert row["ms"]["value"] == pytest.approx(row["layer"] + (row["expansion"] or 0) / 100)
    assert [row["paper"]["ms"]["value"] for row in saved["rows"]] == [
        *(0.68, 1.02, 1.14, 6.86, 7.34, 9.17, 7.01, 7.85, 9.31, 7.06, 7.89, 9.33)
    ]
    table = build_tables(run, [4])[0]
    assert table.paper_heads == ("paper, l = 5", "paper, l = 16", "paper, l = 26")
    stubs = [("Poly. Feats.", "–"), ("AR&D", "4"), ("AR&D", "8"), ("AR&D", "16")]
    assert [line.stub for line in table.lines[::4]] == [(*stub, "highest m") for stub in stubs]
    measures = ("mean m of the top fifth", "the same, L at random", "share above chance")
    assert [line.stub for line in table.lines[1:4]] == [("", "", measure) for measure in measures]
    assert table.lines[1].cells[0].ours.value == 0.1
    assert table.lines[1].cells[0].paper is None
    assert saved["rows"][0]["mean_ms_top_share"]["value"] == 0.1


def test_table4_gives_the_highest_m_a_range_over_orders(run):
    row = Row("AR&D", 3, 8, {"ms": Figure(15.3, math.nan, math.nan, 9, "m")})
    Result("monosemanticity", (row,), {}, {"ms_over_orders": [9.3, 14.8, 29.2]}).save(
        run / "layer-3/e8/monosemanticity.json"
    )
    (note,) = (note for note in build_tables(run, [4])[0].notes if "has no interval" in note)
    assert note.endswith("own layer: AR&D, e = 8 9.30 / 14.80 / 29.20.")


def test_table4_says_what_comes_back_with_other_seeds_where_that_was_asked(run):
    assert not any("other seeds" in note for note in build_tables(run, [4])[0].notes)
    figures = {"come_back": Figure(0.5, 0.4, 0.6, 9, "share"), "come_back_shuffled": Figure(0.0, 0.0, 0.0, 9, "share")}
    Result("seeds", (Row("AR&D", 3, 8, figures),), {"cosine": 0.7}, {"runs": ["a", "b", "c"]}).save(
        run / "layer-3/e8/seeds.json"
    )
    (note,) = (note for note in build_tables(run, [4])[0].notes if "other seeds" in note)
    assert "0.50 [0.40, 0.60] come back in all of 2 runs" in note
    assert note.endswith("with coordinates shuffled 0.00.")
    figures["name_comes_back"] = Figure(0.8, 0.7, 0.9, 9, "share")
    Result("seeds", (Row("AR&D", 3, 8, figures),), {"cosine": 0.7}, {"runs": ["a", "b", "c"]}).save(
        run / "layer-3/e8/seeds.json"
    )
    named = "Of their names 0.80 [0.70, 0.90] are also there in all of these runs."
    assert named in build_tables(run, [4])[0].notes


def test_notes_say_what_is_compared_with_what(run):
    notes = " ".join(build_tables(run, [1])[0].notes)
    for words in (
        "tiny <model>; Simulated clips & nothing else; preset demo, layer 3, e = 8.",
        "Qwen2-Audio-7B-Instruct on real recordings",
        "not comparable",
        "7.01, 7.85 and 9.31",
        "Rand. Rep.: over 10 draws",
        "95 % interval",
    ):
        assert words in notes
    assert "Not measured" not in notes


def test_markdown_and_latex_print_both_sides(run):
    write_tables(run)
    markdown = (run / "tables/table1.md").read_text(encoding="utf-8")
    row = next(line for line in markdown.splitlines() if line.startswith("| Rand. Rep."))
    assert row.split(" | ")[:3] == ["| Rand. Rep.", "0.20 [0.10, 0.30]", "2.13 ± 0.08"]
    widths = {line.count("|") for line in markdown.splitlines() if line.startswith("|")}
    assert widths == {12}
    latex = (run / "tables/table3.tex").read_text(encoding="utf-8")
    assert r"AR\&D & turned & 0.50 [0.40, 0.60] & 0.75 &" in latex
    assert r"Neutral $\rightarrow$ Happy" in latex
    assert r"95 \% interval" in latex
    assert not re.search(r"(?<!\\)[%#]|[→±–]", latex)
    body = latex.split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
    assert {line.replace(r"\&", "").count("&") for line in body} == {9}


def test_the_terminal_shows_it_in_80_columns(run):
    for table in build_tables(run):
        text = printed(table)
        assert max(map(len, text.splitlines())) <= 80
        assert "paper" in text or not table.lines
        assert "…" not in text
    text = printed(build_tables(run, [1])[0])
    assert "2.13±0.08" in text
    assert "0.40–0.60" in text


def test_a_run_without_labels_leaves_tables_out_and_says_so(run):
    write_tables(run)
    for name in ("e8/matching", "poly/matching", "e8/steering"):
        (run / f"layer-3/{name}.json").unlink()
    gains, first, second, third, fourth = write_tables(run)
    assert gains.lines == ()
    assert (first.lines, second.lines, third.lines) == ((), (), ())
    assert "no matching.json" in first.notes[0]
    assert "no steering.json" in third.notes[0]
    assert "Left out" in printed(first)
    assert fourth.lines
    assert sorted(path.name for path in (run / "tables").iterdir()) == ["table4.json", "table4.md", "table4.tex"]


def test_a_method_that_was_not_measured_is_named(run):
    (run / "layer-3/poly/matching.json").unlink()
    table = build_tables(run, [1])[0]
    assert "Not measured in this run: Poly. Feats." in table.notes
    assert len(table.lines) == 4


def test_nan_is_an_empty_cell_and_null_in_json(run):
    nothing = Figure(math.nan, math.nan, math.nan, 0, "m")
    Result("monosemanticity", (Row("AR&D", 1, 4, {"ms": nothing}),), {}).save(run / "layer-1/e4/monosemanticity.json")
    table = write_tables(run, [4])[0]
    saved = json.loads((run / "tables/table4.json").read_text(encoding="utf-8"))
    assert saved["rows"][3]["ms"] == {"value": None, "low": None, "high": None, "n": 0}
    line = next(
        line
        for line in (run / "tables/table4.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("| AR&D | 4")
    )
    assert line.startswith("| AR&D | 4 | highest m | – | 6.86 |")
    assert "nan" not in printed(table)
    assert "Without a value, because there was nothing to measure it on: 1 figures." in table.notes


def test_table1_may_have_a_column_that_the_paper_lacks(run, monkeypatch):
    monkeypatch.setitem(paper.METRICS, "ms_again", "MS again")
    path = run / "layer-3/e8/matching.json"
    result = Result.load(path)
    rows = [replace(row, figures={**row.figures, "ms_again": row.figures["ms"]}) for row in result.rows]
    replace(result, rows=tuple(rows)).save(path)
    table = build_tables(run, [1])[0]
    assert table.heads[-1] == "MS again"
    first, last = table.lines[0].cells[-1], table.lines[-1].cells[-1]
    assert (first, last) == ((None, None), (rows[0].figures["ms"], None))
    assert "ms_again" in table.rows[-1]
    assert "ms_again" not in table.rows[-1]["paper"]


def test_a_folder_that_is_no_run_is_refused(run):
    with pytest.raises(UserError, match="there is no table 5"):
        build_tables(run, [5])
    (run / "run.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match=r"not a run.json of ard .*preset"):
        build_tables(run)
    with pytest.raises(UserError, match=r"holds no run.json: give the --out folder"):
        Run.load(run / "nowhere")


def test_a_note_names_the_rows_that_ard_does_not_beat():
    def line(method, *intervals, expansion=None):
        cells = tuple(Cell(Figure(low, low, high, 9, "share")) for low, high in intervals)
        return Line((method,) if expansion is None else (method, expansion), cells, method.startswith("AR&D"))

    beaten, close = line("Poly. Feats.", (0.1, 0.2), (0.1, 0.2)), line("Mean Act.", (0.4, 0.5), (0.1, 0.2))
    (note,) = unbeaten([beaten, close, line("AR&D (l = 3)", (0.45, 0.6), (0.3, 0.4))], ["F1", "mAP"])
    assert note == "Where the interval of AR&D does not lie above another row's: F1: Mean Act."
    assert unbeaten([beaten, line("AR&D", (0.45, 0.6), (0.3, 0.4))], ["F1", "mAP"]) == []
    (note,) = unbeaten(
        [line("Poly. Feats.", (1.0, 3.0), expansion="–"), line("AR&D", (2.0, 4.0), expansion="4")], ["l = 1"]
    )
    assert "l = 1: Poly. Feats. (against e = 4)" in note
