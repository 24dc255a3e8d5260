"""The last screen of a run: one page of a terminal, whatever there is to say."""

import io
import math

import pytest
from rich.cells import cell_len
from rich.console import Console

from ard.reports import summary
from ard.reports.gains import GAINS
from ard.reports.summary import _evidence
from ard.results import Figure, Result, Row
from ard.run import Run
from tests.reports.conftest import concept, write_about

IDS = ["a", "b", "c", "d"]


def shown(run):
    """The lines as they are where there is no terminal."""
    console = Console(file=io.StringIO())
    console.print(summary(Run.load(run)), soft_wrap=True)
    return console.file.getvalue().splitlines()


def compared(figure, trained, untrained, low, high, better="higher", shift=(None, None)):
    values = {"trained": (trained, better), "untrained": (untrained, "neither"), "gain": (trained - untrained, better)}
    figures = {
        name: Figure(value, low if name == "gain" else value, high if name == "gain" else value, 40, "share", way)
        for name, (value, way) in values.items()
    }
    return Row(figure, 3, 8, figures, *shift)


def save(run, evaluation, rows=(), choices=None, **details):
    cell = Run.load(run).own
    Result(evaluation, tuple(rows), choices or {}, details).save(cell.result_path(evaluation))


def name_concepts(run, rows):
    Run.load(run).own.save_rows("concepts", rows)


BETTER = compared("matching/f1", 0.5, 0.44, 0.03, 0.09)
LESS = compared("probes/absorption", 0.3, 0.48, -0.26, -0.1, "lower")
ALIKE = compared("matching/precision", 0.56, 0.5, -0.03, 0.13)
WORSE = compared("steering/sensitivity", 0.01, 0.52, -0.81, -0.28, shift=("happy", "angry"))


def test_what_training_gives_is_told_from_what_it_does_not_give(run):
    save(run, "gain", [WORSE, ALIKE, LESS, BETTER], {"num_draws": 3})
    lines = shown(run)
    start = lines.index("What training gives, with the mean of 3 untrained dictionaries in brackets")
    assert lines[start + 1 : start + 5] == [
        "  better (2)          F1 0.50 (0.44); absorption, less is better 0.30 (0.48)",
        "  not told apart (1)  precision 0.56 (0.50)",
        "  worse (1)           steering, happy to angry 0.01 (0.52)",
        "",
    ]
    save(run, "gain", [ALIKE], {"num_draws": 1})
    lines = shown(run)
    assert "What training gives, with an untrained dictionary in brackets" in lines
    assert "  better (0)          none" in lines


def test_no_name_of_a_figure_refers_to_the_line_above(run):
    for figure in GAINS:
        save(run, "gain", [compared(figure, 0.5, 0.4, 0.1, 0.3)], {"num_draws": 3})
        assert "the same" not in " ".join(shown(run))


def test_f1_is_held_against_the_other_controls_too(run):
    names = {
        "Untrained SAE": (0.06, 0.03, 0.09),
        "Poly. Feats.": (0.1, 0.05, 0.15),
        "Random tokens": (-0.08, -0.1, -0.01),
    }
    names["Poly. Feats., half-waves"] = (0.02, -0.01, 0.05)
    minus = {method: {"f1": dict(zip(("value", "low", "high"), of, strict=True))} for method, of in names.items()}
    minus["Mean Act."] = {"f1": {"value": 0.1, "low": None, "high": None}}
    save(run, "gain", [BETTER], {"num_draws": 3}, names_minus=minus)
    lines = shown(run)
    start = lines.index("  worse (0)           none")
    assert lines[start + 1 : start + 4] == [
        "  F1 minus that of    Random tokens -0.08 (worse);",
        "                      Poly. Feats., half-waves +0.02 (not told apart);",
        "                      Poly. Feats. +0.10 (better)",
    ]


def test_without_controls_nothing_is_claimed_of_training(run):
    assert "What training gives was not measured: there are no untrained dictionaries." in shown(run)


def test_the_best_concepts_have_the_highest_m_and_each_name_once(run):
    more = {"duplicate_of": None, "phrases": [], "support": []}
    rows = [concept(n, float(n), IDS, name=f"sound {n}", n_active=10 * n, **more) for n in range(1, 8)]
    rows[5] |= {"name": "sound 7", "duplicate_of": 7}
    rows[4] |= {"phrases": ["sound 5"], "support": ["sound 5 in 4 of 4 clips (q 0.01)"]}
    name_concepts(run, rows)
    Run.load(run).own.save_rows("detection", [{"feature": 7, "detection": 0.934, "n_active_unseen": 3}])
    lines = shown(run)
    start = lines.index("Concepts whose clips are most alike      m   clips  evidence for the name")
    assert [line.rstrip() for line in lines[start + 1 : start + 7]] == [
        "sound 7                               7.00      70  AUROC 0.93 on unseen clips",
        "sound 5                               5.00      50  in 4 of 4 clips",
        "sound 4                               4.00      40",
        "sound 3                               3.00      30",
        "sound 2                               2.00      20",
        "",
    ]


def test_without_m_the_concepts_of_the_most_clips_are_shown(run):
    Run.load(run).own.path("detection").unlink()
    name_concepts(run, [concept(n, math.nan, IDS, name=f"sound {n}", n_active=n, clap=0.25) for n in (3, 9, 5)])
    lines = shown(run)
    start = next(place for place, line in enumerate(lines) if line.startswith("Concepts active in the most clips"))
    assert [line.split() for line in lines[start + 1 : start + 4]] == [
        ["sound", str(n), "–", str(n), "CLAP", "cosine", "0.25"] for n in (9, 5, 3)
    ]


def test_a_run_without_names_says_so(run):
    name_concepts(run, [concept(1, 2.0, IDS, name=None)])
    assert "No feature has a name." in shown(run)
    Run.load(run).own.path("concepts").unlink()
    assert "No feature has a name." in shown(run)


def test_where_the_rest_is_can_be_copied_into_a_shell(run, tmp_path):
    own = tmp_path / "it's mine"
    run.joinpath("layer-3").rename(tmp_path / "layer")
    own.mkdir()
    (tmp_path / "layer").rename(own / "layer-3")
    run.joinpath("run.json").rename(own / "run.json")
    *_, report, tables, concepts = shown(own)
    assert report == f"report    {own}/report/index.html (open it in a browser)"
    quoted = "'" + str(own).replace("'", "'\"'\"'") + "'"
    assert tables == f"tables    ard tables --run {quoted} (files: {own}/tables)"
    assert concepts == f"concepts  ard concepts --run {quoted}"


@pytest.mark.parametrize("clap", ["embedded", "another"])
def test_it_fits_a_terminal_however_much_there_is_to_say(run, clap, monkeypatch):
    write_about(run, clap=clap, audio={})
    save(run, "monosemanticity", choices={"false_discovery_rate": 0.05}, num_above_chance={"ard": 0}, num_live=1024)
    unexplained = Row("AR&D", 3, 8, {"fvu": Figure(0.97, math.nan, math.nan, 40, "share", "lower")})
    save(run, "reconstruction", [unexplained], {"tokens": "eval"})
    shifts = [("neutral", "happy"), ("sad", "happy"), ("happy", "angry")]
    intervals = [(0.1, 0.3), (-0.1, 0.3), (-0.3, -0.1)]
    rows = [
        compared(figure, 0.5, 0.4, *intervals[place % 3], shift=shift)
        for place, figure in enumerate(GAINS)
        for shift in (shifts if figure.startswith("steering") else [(None, None)])
    ]
    minus = {f"control {n}": {"f1": {"value": 0.1, "low": -0.1, "high": 0.2}} for n in range(9)}
    save(run, "gain", rows, {"num_draws": 3}, names_minus=minus)
    long = ["雨" * 60, "a dog [barks] " * 10, "two\nlines", "e", "f", "g"]
    name_concepts(run, [concept(n, 1234.5 - n, IDS, name=name, n_active=1234567) for n, name in enumerate(long)])
    monkeypatch.chdir(run)
    lines = shown(run.relative_to(run))
    assert len(lines) <= 23
    assert max(map(cell_len, lines)) <= 80
    assert " more" in "".join(lines)
    assert lines[-3:] == [
        "report    report/index.html (open it in a browser)",
        "tables    ard tables --run . (files: tables)",
        "concepts  ard concepts --run .",
    ]


def test_a_name_that_fails_says_so_before_the_line_may_be_cut():
    concept = {"name": "wind", "detection": 1.0, "support": ["in 3 of 4 clips"], "passes": False}
    assert _evidence(concept) == "fails its tests, AUROC 1.00 on unseen clips, in 3 of 4 clips"
    assert _evidence(concept | {"passes": None, "detection": None, "support": [], "clap": 0.5}) == "CLAP cosine 0.50"
