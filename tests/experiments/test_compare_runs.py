"""What differs between two runs is said, and nothing else."""

import json
import runpy
import sys

import pytest
import torch

from ard.results import Figure, Result, write_json
from ard.run import Run
from experiments.compare_runs import differences


def write_run(folder, value=0.5, seconds=1.0, order=(0, 1), note=""):
    """Write a small run whose one figure, times and order of lines are given."""
    run = Run(folder)
    cell = run.cell(3, 8)
    write_json(run.path, {"out": str(folder), "preset": "demo", "sae": f"{folder}/layer-3/e8/sae"})
    figure = Figure(value, 0.25, 0.75, 9, "share")
    about = {"out": str(folder), "nested": [{"wall_time_s": seconds, "at": [1.0, float("nan")]}]}
    result = Result("matching", (cell.row({"f1": figure}),), {"gamma": 0.7}, about, wall_time_s=seconds)
    result.save(cell.result_path("matching"))
    cell.save_tensors("scores", {"m": torch.tensor([[0.5, torch.nan], [value, 0.0]]), "n": torch.tensor(3)})
    cell.save_rows(
        "names", [{"feature": 1, "name": "dog", "m": float("nan")}, {"feature": 2, "name": None, "m": value}]
    )
    captions = [{"id": "a", "caption": "a dog"}, {"id": "b", "caption": "rain"}]
    run.cell(1, 2).save_rows("concepts", [captions[place] for place in order])
    lines = [json.dumps({"key": "x", "answer": "yes"}), json.dumps({"key": "y", "answer": "no"})]
    run.answers.write_text("".join(lines[place] + "\n" for place in order), encoding="utf-8")
    run.table(1, "md").parent.mkdir()
    run.table(1, "md").write_text(f"| F1 |\n| {value} |\n{note}{folder}\n", encoding="utf-8")
    for apart in (cell.stamp("fit"), folder / "wandb/summary.json", folder / "report/data.json"):
        write_json(apart, {"value": value})
    (folder / "one.tar").write_bytes(bytes([order[0]]))
    return folder


def test_two_runs_in_other_folders_at_other_times_are_the_same(tmp_path):
    before, after = write_run(tmp_path / "before"), write_run(tmp_path / "after", seconds=2.0, order=(1, 0))
    assert list(differences(before, after)) == []


def test_what_differs_is_said_file_by_file(tmp_path):
    before, after = write_run(tmp_path / "before"), write_run(tmp_path / "after", value=0.625, note="new\n")
    assert list(differences(before, after)) == [
        "layer-3/e8/matching.json: rows[0].figures.f1.value: 0.5 before, 0.625 after",
        "layer-3/e8/names.parquet: [1].m: 0.5 before, 0.625 after",
        "layer-3/e8/scores.safetensors: values of ['m']",
        "tables/table1.md: 3 lines",
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda run: run.answers.unlink(), "answers.jsonl: only before"),
        (
            lambda run: run.answers.write_text(
                run.answers.read_text(encoding="utf-8").replace("yes", "no"), encoding="utf-8"
            ),
            "answers.jsonl: 1 lines",
        ),
        (lambda run: run.failures.write_text("{}", encoding="utf-8"), "failures.json: only after"),
        (
            lambda run: run.cell(3, 8).save_tensors("scores", {"m": torch.zeros(2, 2)}),
            "layer-3/e8/scores.safetensors: tensors ['n']",
        ),
        (
            lambda run: run.cell(3, 8).save_tensors(
                "scores", {**run.cell(3, 8).tensors("scores"), "n": torch.tensor(3, dtype=torch.int32)}
            ),
            "layer-3/e8/scores.safetensors: values of ['n']",
        ),
        (lambda run: run.cell(3, 8).save_rows("names", [{"feature": 1}]), "layer-3/e8/names.parquet: : "),
        (
            lambda run: run.cell(1, 2).save_rows("concepts", [{"id": i, "caption": "rain"} for i in "ab"]),
            "layer-1/e2/concepts.parquet: [0].caption: a dog before, rain after",
        ),
    ],
)
def test_each_kind_of_difference_is_seen(tmp_path, change, said):
    before, after = write_run(tmp_path / "before"), write_run(tmp_path / "after")
    change(Run(after))
    (found,) = differences(before, after)
    assert found.startswith(said)


@pytest.mark.parametrize(("value", "status", "said"), [(0.5, 0, "the same\n"), (0.75, 1, "0.5 before, 0.75 after")])
def test_the_exit_status_says_whether_they_differ(tmp_path, monkeypatch, capsys, value, status, said):
    folders = [write_run(tmp_path / "before"), write_run(tmp_path / "after", value=value)]
    monkeypatch.setattr(sys, "argv", ["compare_runs", *map(str, folders)])
    monkeypatch.delitem(sys.modules, "experiments.compare_runs")
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("experiments.compare_runs", run_name="__main__")
    assert ended.value.code == status
    assert said in capsys.readouterr().out
