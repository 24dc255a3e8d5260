"""`ard runs` and `ard tables`: what there is of runs, and what is in their tables, also where a run is not finished."""

import re

import pytest

from ard.cli import main
from ard.results import Figure, Result, Row
from ard.run import Run
from tests.refusals import refused
from tests.reports.conftest import write_about, write_results


@pytest.fixture
def few_runs(tmp_path):
    """A folder with runs that are not finished, each for another reason, and something else."""
    other = {"preset": "no such", "model": "a/b [c]"}
    for name, about in {"measured": {}, "group/other": other, "cut": {}}.items():
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        write_about(folder, **{"model": "embedded", "clap": "embedded", "goals": [4, "concepts"], **about})
    write_results(tmp_path / "runs/measured")
    scored = {"num_above_chance": {"ard": 554}, "num_live": 970}
    cell = Run(tmp_path / "runs/measured").own
    highest = Row("AR&D", 3, 8, {"ms": Figure(9.7, 9.7, 9.7, 40, "m")})
    Result("monosemanticity", (highest,), {}, scored).save(cell.result_path("monosemanticity"))
    f1 = {name: Figure(value, 0.03, 0.09, 40, "share") for name, value in (("trained", 0.5), ("untrained", 0.44))}
    gain = Row("matching/f1", 3, 8, {**f1, "gain": Figure(0.06, 0.03, 0.09, 40, "share")})
    Result("gain", (gain,), {"num_draws": 3}).save(cell.result_path("gain"))
    about = tmp_path / "runs/cut/run.json"
    about.write_text(about.read_text(encoding="utf-8")[:100], encoding="utf-8")
    (tmp_path / "runs/begun/audio/probe").mkdir(parents=True)
    (tmp_path / "runs/begun/audio/probe/.ard.lock").touch()
    (tmp_path / "runs/thesis").mkdir()
    return tmp_path / "runs"


def test_the_runs_of_a_folder_are_listed_with_what_is_unfinished_and_why(few_runs, capsys):
    before = {path: path.stat().st_mtime_ns for path in few_runs.rglob("*")}
    main(["runs", str(few_runs)])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[:5]] == [
        ["run", "preset", "model", "seed", ">", "chance", "F1", "gain", "FVU", "size"],
        ["begun", *["–"] * 7, "0.0", "MB"],
        ["cut", *["–"] * 7, "0.0", "MB"],
        ["group/other", "no", "such", "b", "[c]", "3", *["–"] * 4, "0.0", "MB"],
        ["measured", "demo", "embedded", "3", "554/970", "0.50", "+0.06", "–", "0.1", "MB"],
    ]
    assert max(map(len, lines[:7])) <= 80
    begun, cut, other, measured = lines[lines.index("Not finished:") + 1 :]
    assert begun == "begun: it was stopped before there was more than sounds"
    assert re.fullmatch(r"cut: '.*/run.json' is damaged \(.*\): run `ard demo` or `ard run` again", cut)
    assert re.fullmatch(r"measured: audio: probe: not done yet \(and \d+ more\)", measured)
    assert other.startswith("group/other: preset 'no such' does not exist: choose one of ['demo'")
    assert before == {path: path.stat().st_mtime_ns for path in few_runs.rglob("*")}


def test_a_run_whose_results_are_damaged_is_listed_like_the_others(few_runs, capsys):
    (few_runs / "measured/layer-3/e8/gain.json").write_text('{"rows": 3}', encoding="utf-8")
    main(["runs", str(few_runs / "measured")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:4] == ["measured", "demo", "embedded", "3"]
    assert re.fullmatch(r"measured: '.*/gain.json' is damaged \(.*\): delete it, and run what made it again", lines[-1])


def test_a_folder_without_runs_is_refused(tmp_path, capsys):
    assert "there is no run in " in refused(capsys, "runs", tmp_path / "nowhere")
    assert "there is no run in " in refused(capsys, "runs", tmp_path)


def test_tables_are_shown_from_the_files_of_a_run(few_runs, capsys):
    run = few_runs / "measured"

    def shown(*words):
        main(["tables", "--run", str(run), *words])
        return capsys.readouterr().out

    whole = shown()
    assert max(map(len, whole.splitlines())) <= 80
    titles = ["What training gives", *(f"Table {number}." for number in (1, 3, 4))]
    assert [title for title in titles if title in whole] == titles
    assert "Left out: this run has no" in whole  # of Table 2, for which there is no result
    assert "Paper: as printed" not in whole
    for number, title in zip("0134", titles, strict=True):
        assert [other for other in titles if other in shown(number)] == [title]
    assert "Paper: as printed in arXiv 2602.22253" in " ".join(shown("1", "--notes").split())
    assert "there is no table 5 to make" in refused(capsys, "tables", "--run", run, 5)
    assert "holds no run.json" in refused(capsys, "tables", "--run", few_runs / "thesis")
