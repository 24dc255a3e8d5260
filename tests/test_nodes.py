"""The commands of docs/cluster.md: two nodes train and evaluate as one process does, even if one is lost meanwhile."""

import json
import shutil
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from ard.cli import main
from ard.presets import CONFIGS
from tests import launch
from tests.alike import assert_alike
from tests.stages import apart, extract

RANKS = ["--trainer.accelerator=cpu", "--trainer.strategy=ddp"]
WEIGHTS = "sae_weights.safetensors"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tiny_audiollm, tiny_clap, tiny_roberta, tmp_path_factory):
    """A run's folder with activations."""
    out = tmp_path_factory.mktemp("run")
    extract(out, tiny_audiollm, tiny_clap, tiny_roberta)
    return out


@pytest.fixture(scope="module")
def small_batches(run, tiny_audiollm, tiny_clap, tiny_roberta, tmp_path_factory):
    """The arguments of commands on the demo's YAML files, with batches so small that two ranks have some each."""
    configs = shutil.copytree(CONFIGS / "demo", tmp_path_factory.mktemp("configs") / "demo")
    for name in ("test", "steer"):
        file = yaml.safe_load((configs / f"{name}.yaml").read_text(encoding="utf-8"))
        for callback in file["trainer"]["callbacks"]:
            if callback["class_path"].endswith(("NameConcepts", "MeasureSteering")):
                callback["init_args"]["clips_per_batch"] = 2
        (configs / f"{name}.yaml").write_text(yaml.safe_dump(file, sort_keys=False), encoding="utf-8")
    tasks = yaml.safe_load((configs / "run.yaml").read_text(encoding="utf-8"))["tasks"]
    facts = {"out": run, "model": tiny_audiollm, "clap": tiny_clap, "bertscore": tiny_roberta, "d_in": 32, "k": 4}
    facts |= {"layer": 2, "expansion": 2, "num_selected": 12, "tasks": json.dumps([tasks[0], tasks[-1]])}

    def words(command, name, cell, *more):
        given = [f"--run.{fact}={value}" for fact, value in {**facts, "cell": cell.folder}.items()]
        given += ["--trainer.max_steps=30"] if command == "fit" else []
        return [command, "--config", str(configs / f"{name}.yaml"), *given, "--trainer.logger=false", *more]

    return words


@pytest.fixture(scope="module")
def alone(run, small_batches, tmp_path_factory):
    """A cell with an SAE that two ranks of a node trained, and one process evaluated."""
    cell = apart(run, tmp_path_factory.mktemp("alone"))
    command = small_batches("fit", "fit", cell, *RANKS, "--trainer.devices=2")
    launch.finish(launch.start(launch.run_all, [command], None, environments=launch.one_node(2)))
    for name in ("test", "steer"):
        main(small_batches("test", name, cell))
    return cell


def on_the_page(starts):
    """Return the command of docs/cluster.md that starts so, and the words of Lightning's in it."""
    page = (Path(__file__).parent.parent / "docs/cluster.md").read_text(encoding="utf-8").replace("\\\n", " ")
    (line,) = [line.split() for line in page.splitlines() if line.startswith(f"{starts} ")]
    place = line.index("fit")
    assert line[place : place + 3] == ["fit", "--config", "configs/paper/fit.yaml"]
    return line[:place], [*RANKS, *line[place + 3 :]]


def test_two_nodes_by_torchrun_train_as_one_node(run, small_batches, alone, tmp_path):
    cell = apart(run, tmp_path / "run")
    (torchrun, *options), nodes = on_the_page(".venv/bin/torchrun")
    given = {"node-0": "127.0.0.1", "29500": str(launch.free_port())}
    started = []
    for number in range(2):
        words = [
            str(number) if before == "--node-rank" else given.get(word, word) for before, word in pairwise(options)
        ]
        command = [Path(sys.executable).with_name(Path(torchrun).name), options[0], *words]
        command += small_batches("fit", "fit", cell, *nodes)
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    for process in started:
        shown, _ = process.communicate(timeout=120)
        assert process.returncode == 0, shown
    assert (cell.sae / WEIGHTS).read_bytes() == (alone.sae / WEIGHTS).read_bytes()


def test_two_nodes_by_slurm_train_and_evaluate_as_one_process(run, small_batches, alone, tmp_path):
    cell = apart(run, tmp_path / "run")
    (_, *options), nodes = on_the_page("srun")
    assert options[:4] == ["--nodes", "2", "--ntasks-per-node", "1"]
    commands = [small_batches(c, n, cell, *nodes) for c, n in (("fit", "fit"), ("test", "test"), ("test", "steer"))]
    launch.finish(launch.start(launch.run_all, commands, tmp_path, environments=launch.slurm(2)))
    assert (cell.sae / WEIGHTS).read_bytes() == (alone.sae / WEIGHTS).read_bytes()
    assert_alike(cell, alone)
    for kind in ("captions", "answers", "captured"):
        first, second = (path.read_text(encoding="utf-8").splitlines() for path in tmp_path.glob(f"{kind}-*"))
        assert kind == "captured" or len({*first, *second}) == len(first) + len(second)
        assert min(len(first), len(second)) > 0.3 * len(first + second)


def test_two_nodes_evaluate_as_one_process_even_if_one_is_lost_meanwhile(run, small_batches, alone, tmp_path):
    cell = apart(run, tmp_path / "run")
    shutil.copytree(alone.sae, cell.sae)
    nodes = on_the_page(".venv/bin/torchrun")[1]
    command, then = (small_batches("test", name, cell, *nodes) for name in ("test", "steer"))
    first, second = launch.start(launch.run_all, [command], tmp_path, environments=launch.torchrun(2))
    while len(list(tmp_path.glob("captions-*"))) < 2:
        assert first.is_alive()
        assert second.is_alive()
        time.sleep(0.001)
    second.kill()
    first.join(60)
    assert first.exitcode == 2
    kept = noted(tmp_path)
    assert 2 <= len(kept) < pq.read_table(alone.run.captions).num_rows
    again = tmp_path / "again"
    again.mkdir()
    launch.finish(launch.start(launch.run_all, [command, then], again, environments=launch.torchrun(2)))
    assert not kept & noted(again)
    assert_alike(cell, alone)


def noted(folder):
    """Return the clips whose captions were made by all ranks that made notes of it."""
    notes = folder.glob("captions-*")
    return {clip_id for path in notes for clip_id in path.read_text(encoding="utf-8").splitlines()}
