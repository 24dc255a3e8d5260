"""The scripts of `ard jobs`: several processes fill a run's folder as one does, and SLURM is told what runs when."""

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from operator import itemgetter

import pyarrow.parquet as pq
import pytest
import yaml

from ard.cli import main
from ard.presets import CONFIGS
from ard.reports import build_tables
from ard.run import Run
from tests.alike import assert_like


@pytest.fixture(scope="module")
def preset(tiny_audiollm, tiny_clap, tmp_path_factory):
    """The demo's YAML files with tiny models and a short training, of one layer and two expansions."""
    configs = tmp_path_factory.mktemp("configs") / "tiny"
    shutil.copytree(CONFIGS / "demo", configs)
    audio = {
        split: [{"source": "synthetic", "split": split, "seed": 0, "num_clips": 12, "speech_share": share}]
        for split, share in {"probe": 0.5, "eval": 0.5, "made": 0.5, "steer-select": 1.0, "steer": 1.0}.items()
    }
    task = {"source": "neutral", "target": "happy", "prompt": "Happy?", "classes": ["neutral", "happy"], "concept": "a"}
    facts = yaml.safe_load((configs / "run.yaml").read_text(encoding="utf-8"))
    facts |= {"model": tiny_audiollm, "clap": tiny_clap, "d_in": 32, "k": 4, "num_selected": 12, "audio": audio}
    facts |= {"layer": 2, "layers": [2], "expansion": 2, "expansions": [2, 4], "tasks": [task], "num_untrained": 0}
    (configs / "run.yaml").write_text(yaml.safe_dump(facts), encoding="utf-8")
    for name in ("fit", "test", "steer"):  # no W&B, whose service processes that are forked cannot share
        file = yaml.safe_load((configs / f"{name}.yaml").read_text(encoding="utf-8"))
        file["trainer"] |= {"logger": False, **({"max_steps": 30, "val_check_interval": 30} if name == "fit" else {})}
        (configs / f"{name}.yaml").write_text(yaml.safe_dump(file, sort_keys=False), encoding="utf-8")
    return str(configs)


@pytest.fixture
def started():
    """Start a command in a process of its own."""
    running = []

    def start(command):
        process = multiprocessing.get_context("fork").Process(target=main, args=(command,))
        process.start()
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.join()


def measured(run):
    """What was measured in a run: every result file of its cells, but for how long it took."""
    results = {str(path.relative_to(run.folder)): path for path in run.folder.glob("layer-*/*/*.json")}
    contents = {name: json.loads(path.read_text(encoding="utf-8")) for name, path in results.items()}
    return {name: {**content, "wall_time_s": 0} for name, content in contents.items()}


def announced(lines):
    """What the processes did, from the lines that announce it: steps with what they worked on, and how often."""
    steps = (line.removeprefix("· ").split(": ") for line in lines.splitlines() if line.startswith("· "))
    return Counter((step, one) for step, what in steps for one in what.split(", ") if not one.startswith("layer"))


@pytest.mark.slow
def test_several_processes_fill_a_folder_as_one_does_and_nothing_is_done_twice(preset, started, tmp_path, capfd):
    def words(number, out, *more):
        return ["table", str(number), "--preset", preset, "--out", str(tmp_path / out), *more]

    one, several = Run(tmp_path / "one"), Run(tmp_path / "several")
    for number in (3, 4):
        main(words(number, "one"))
    alone = announced(capfd.readouterr().err)
    killed = started(words(4, "several", "--until", "extract"))
    while not several.audio("probe").is_dir():
        assert killed.is_alive()
        time.sleep(0.01)
    killed.kill()
    killed.join()
    capfd.readouterr()
    cells = ((3, "2/2"), (4, "2/4"), (4, "2/2,2/4"))
    processes = [started(words(number, "several", "--cells", cell)) for number, cell in cells]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * len(cells)
    done = announced(capfd.readouterr().err)
    assert [each for each, times in done.items() if times > 1] == []
    every, of_one = ({(step, what.removeprefix("expansion ")) for step, what in each} for each in (done, alone))
    assert {step for step, _ in every - of_one} <= {"score"}  # Table 4's part of a test, when it came first
    assert of_one <= every
    for number in (3, 4):
        main(words(number, "several"))
    assert announced(capfd.readouterr().err) == {}  # all of it was done
    assert_like(measured(several), measured(one), "results")
    assert_like(*([table.rows for table in build_tables(run.folder)] for run in (several, one)), "tables")
    captions, answers = [], []
    for run in (one, several):
        captions.append(pq.read_table(run.captions).to_pylist())
        kept = [json.loads(line) for line in run.answers.read_text(encoding="utf-8").splitlines()]
        answers.append(sorted(kept, key=itemgetter("key")))
    assert captions[0] == captions[1]
    assert answers[0] == answers[1]
    assert len(answers[0]) == len({answer["key"] for answer in answers[0]}) > 0


def script(capsys, *words):
    capsys.readouterr()
    main(["jobs", *words])
    return capsys.readouterr().out


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Programs that stand in for others, by their name and text; what they keep is in the folder that is returned."""

    def put(**programs):
        (tmp_path / "bin").mkdir()
        for name, text in programs.items():
            path = tmp_path / "bin" / name
            path.write_text(f"#!/bin/bash\n{text}\n", encoding="utf-8")
            path.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
        return tmp_path

    return put


PAPER = ["--preset", "paper", "--run.root", "/my data"]
GIVEN = "--preset paper --out runs/paper --seed 0 --run.root=/my data"
FIRST = f"table 3 {GIVEN} --until extract"
CELLS = [
    [f"table 1 {GIVEN} --cells 26/8", f"table 3 {GIVEN} --cells 26/8"],
    *([f"table 1 {GIVEN} --cells {layer}/8", f"table 4 {GIVEN} --cells {layer}/8"] for layer in (5, 16)),
    *([f"table 4 {GIVEN} --cells {layer}/{e}"] for layer in (5, 16, 26) for e in (4, 16)),
]
LAST = [f"table {number} {GIVEN}" for number in (1, 2, 3, 4)]


def test_the_script_for_a_machine_gives_each_cell_a_card_of_its_own(stand_in, tmp_path, monkeypatch, capsys):
    kept = stand_in(python='sleep 0.05; echo "${CUDA_VISIBLE_DEVICES:-all} ${*:3}" >> ran')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(kept / "bin" / "python"))
    written = script(capsys, *PAPER, "--gpus", "3")
    subprocess.run(["bash"], input=written, text=True, check=True, cwd="/")
    cards, ran = zip(
        *(line.split(" ", 1) for line in (kept / "ran").read_text(encoding="utf-8").splitlines()), strict=True
    )
    assert (ran[0], list(ran[-4:])) == (FIRST, LAST)
    assert sorted(ran[1:-4]) == sorted(line for lines in CELLS for line in lines)
    assert (cards[0], set(cards[1:-4]), set(cards[-4:])) == ("all", {"0", "1", "2"}, {"all"})
    stand_in_fails = kept / "bin" / "python"
    stand_in_fails.write_text("#!/bin/bash\necho ran >> again\n[[ $* != *26/8* ]]\n", encoding="utf-8")
    assert subprocess.run(["bash"], input=written, text=True, check=False).returncode != 0
    assert (
        len((kept / "again").read_text(encoding="utf-8").splitlines()) == 1 + sum(map(len, CELLS)) - 1
    )  # the other cells, no tables


def test_slurm_is_given_an_array_of_the_cells_between_what_they_need_and_the_tables(
    stand_in, tmp_path, monkeypatch, capsys
):
    number = "number=$(( $(ls *.sh 2> /dev/null | wc -l) + 1 ))"
    keep = 'printf \'%s\\n\' "$@" > $number.options; cat > $number.sh; echo "$number;cluster"'
    stand_in(sbatch=f"{number}; {keep}", srun='echo "$SRUN_CPUS_PER_TASK ${*:4}" >> ran')
    monkeypatch.chdir(tmp_path)
    written = script(capsys, *PAPER, "--slurm")
    subprocess.run(["bash", "-s", "--", "--partition=long one"], input=written, text=True, check=True, cwd="/")
    options = [(tmp_path / f"{job}.options").read_text(encoding="utf-8").splitlines() for job in (1, 2, 3)]
    assert all({"--requeue", "--kill-on-invalid-dep=yes", "--partition=long one"} <= set(each) for each in options)
    asked = [[one for one in each if one.startswith(("--gpus", "--dep", "--array"))] for each in options]
    cells = ["--gpus=1", "--dependency=afterok:1", f"--array=0-{len(CELLS) - 1}"]
    assert asked == [["--gpus=1"], cells, ["--dependency=afterok:2"]]

    def ran(job, place=""):
        environment = {**os.environ, "SLURM_ARRAY_TASK_ID": str(place), "SLURM_CPUS_PER_TASK": "8"}
        subprocess.run(["bash", f"{job}.sh"], env=environment, check=True)
        lines = (tmp_path / "ran").read_text(encoding="utf-8").splitlines()
        (tmp_path / "ran").unlink()
        return [line.removeprefix("8 ") for line in lines]

    assert ran(1) == [FIRST]
    assert [ran(2, place) for place in range(len(CELLS))] == CELLS
    assert ran(3) == LAST


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["jobs", "--tables", "[4,7]"], "table 7 cannot be made: there are tables 1, 2, 3 and 4"),
        (["jobs", "--gpus", "0"], "gpus 0 is too few: give 1 or more; without a GPU it is the number of processes"),
        (
            ["jobs", "--tables", "[1]", "--run.evaluation", "null"],
            "tables [1] have no cells: name one of 1 to 4; those",
        ),
        (["table", "4", "--cells", "5"], "cells '5' are not layers and expansions: give them like 5/8,26/16"),
        (["table", "1", "--cells", "1/8,2/8"], "cell 2/8 is not among those of this table: choose from 1/8,3/8,4/8"),
        (["table", "4", "--until", "fits"], "step 'fits' does not exist: the steps are audio, extract, fit, control"),
    ],
)
def test_what_cannot_be_divided_is_said_in_one_line(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    assert f"ard: {said}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
