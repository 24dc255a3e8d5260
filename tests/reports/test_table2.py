"""Table 2: people, language models and true labels, each in rows of their own."""

import json

import pytest
from rich.console import Console

from ard.reports import build_tables, paper, render_table, write_report, write_tables
from ard.reports.paper import Printed
from ard.results import Figure, Result, Row

JUDGED = ("expert_score", "clap_cosine", "bertscore")


def judged(value, *, names=JUDGED):
    return {name: Figure(value, value - 0.1, value + 0.1, 50, "x", spread=0.5) for name in names}


def save_similarity(run, method, folder, expansion, value, without):
    figures = judged(value, names=JUDGED[1:2])
    rows = [Row(method, 3, expansion, figures), Row(f"{method}, names shuffled", 3, expansion, figures)]
    details = {"num_concepts": 200, "num_without_shared_label": without}
    Result("name_similarity", tuple(rows), {}, details, 0, 0.1).save(run / f"layer-3/{folder}/name_similarity.json")


@pytest.fixture
def labelled(run):
    """Add what a corpus's labels say of the names."""
    save_similarity(run, "AR&D", "e8", 8, 0.93, 3)
    save_similarity(run, "Poly. Feats.", "poly", None, 0.95, 31)
    return run


@pytest.fixture
def rated(labelled):
    """Add what people and a language model say."""
    rows = [
        Row("AR&D, rated by LLM m-70b", 3, 8, judged(4.5), note="heard nothing"),
        Row("AR&D", 3, 8, judged(4.0), note="100 ratings by 2 people"),
        Row("Poly. Feats.", 3, None, judged(2.0)),
        Row("Poly. Feats., rated by LLM m-70b", 3, None, judged(2.5)),
    ]
    agreement = {"all": {"value": 0.71, "low": 0.6, "high": 0.8, "n": 50}}
    result = Result("study", tuple(rows), {}, {"agreement": agreement, "num_people_who_rated": 2}, 0, 0.1)
    result.save(labelled / "layer-3/e8/study.json")
    return labelled


def test_the_papers_figures_are_there():
    assert paper.TABLE2["AR&D"]["clap_cosine"] == Printed(0.84, 0.20)
    assert list(paper.TABLE2["Poly. Feats."].values()) == [
        Printed(2.13, 0.79),
        Printed(0.47, 0.41),
        Printed(0.23, 0.41),
    ]


def test_people_come_first_and_nobody_shares_their_rows(rated):
    write_tables(rated)
    saved = json.loads((rated / "tables/table2.json").read_text(encoding="utf-8"))
    assert [(row["method"], row["raters"]) for row in saved["rows"]] == [
        ("Poly. Feats.", "people"),
        ("AR&D", "people"),
        ("Poly. Feats., rated by LLM m-70b", "language model"),
        ("AR&D, rated by LLM m-70b", "language model"),
        ("Poly. Feats., true labels as raters", "true labels"),
        ("AR&D, true labels as raters", "true labels"),
        ("Poly. Feats., names shuffled, true labels as raters", "true labels"),
        ("AR&D, names shuffled, true labels as raters", "true labels"),
    ]
    ours = saved["rows"][1]
    assert ours["expert_score"] == {"value": 4.0, "low": 3.9, "high": 4.1, "n": 50, "spread": 0.5}
    assert ours["paper"]["expert_score"] == {"value": 4.29, "plus_minus": 0.81}
    assert all(("expert_score" in row) == (row["raters"] != "true labels") for row in saved["rows"])
    assert all(("paper" in row) == (row["raters"] == "people") for row in saved["rows"])
    markdown = (rated / "tables/table2.md").read_text(encoding="utf-8")
    assert "| AR&D | 4.00 ± 0.50 [3.90, 4.10] | 4.29 ± 0.81 |" in markdown
    for said in ("all 0.71", "100 ratings by 2 people", "heard nothing", "nobody rated", "31 of 200 concepts are left"):
        assert said in markdown
    assert r"4.00 $\pm$ 0.50" in (rated / "tables/table2.tex").read_text(encoding="utf-8")


def test_without_people_their_rows_wait_and_no_rating_is_made_up(labelled):
    (table,) = build_tables(labelled, [2])
    assert [line.stub[0] for line in table.lines[:3]] == ["Poly. Feats.", "AR&D", "Poly. Feats., true labels as raters"]
    assert all(cell.ours is None for line in table.lines[:2] for cell in line.cells)
    assert all(line.cells[0].ours is None for line in table.lines)
    assert table.lines[1].cells[0].paper == Printed(4.29, 0.81)
    assert not any("expert_score" in row for row in table.rows)
    notes = " ".join(table.notes)
    unbeaten = "lie above another row's: CLAP cosine: Poly. Feats., true labels as raters"
    assert notes.count("Poly. Feats., true labels as raters") == 2  # once in the note on what is left out
    for said in ("No person has rated", "BERTScore is left out", "nobody rated", unbeaten):
        assert said in notes


def test_a_run_that_knows_nothing_leaves_the_table_out(run):
    (table,) = build_tables(run, [2])
    assert (table.lines, table.rows) == ((), ())
    assert table.notes[-1].startswith("Left out: this run has no study.json or name_similarity.json")
    write_tables(run)
    assert not list((run / "tables").glob("table2.*"))


def test_it_fits_80_columns_and_the_report(rated):
    console = Console(width=80, record=True)
    console.print(render_table(build_tables(rated, [2])[0]))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert "4.00±0.50" in text
    page = write_report(rated).read_text(encoding="utf-8")
    assert "Table 2. Human" in page
    assert "true labels as raters" in page
