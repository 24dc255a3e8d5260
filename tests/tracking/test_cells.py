"""What loggers of Lightning's own get of a training, of an evaluated cell, and of the tables."""

import csv
import json
import math
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import wandb
from lightning import Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboardX.proto.event_pb2 import Event

from ard.activations import ActivationDataModule
from ard.reports import build_tables
from ard.results import Figure, Result, Row
from ard.run import Run
from ard.sae import SAETraining
from ard.tracking import LogTraining, WandbLogger, log_cell
from ard.tracking.cells import figures
from tests.reports.conftest import NASTY, concept, write_about, write_clips, write_concepts, write_results
from tests.stores import write_activations
from tests.tracking.offline import read_runs
from tests.tracking.server import run_python, serve


@pytest.fixture
def run(tmp_path):
    """The folder of a run with results, concepts and clips."""
    write_about(tmp_path)
    write_results(tmp_path)
    write_clips(tmp_path, NASTY)
    write_concepts(tmp_path, [concept(5, 1.5, NASTY), concept(7, 9.25, NASTY, name="dog")])
    return tmp_path


def metrics(logger):
    """What a CSV logger has written, the last value of each metric."""
    with open(logger.experiment.metrics_file_path, encoding="utf-8") as file:
        return {name: float(value) for row in csv.DictReader(file) for name, value in row.items() if value}


def board(logger):
    """The values that a TensorBoard logger has written, with their steps; its records have a length and checksums."""
    logger.experiment.close()  # or some of them are still in a queue
    values = []
    for path in Path(logger.log_dir).glob("events.*"):
        content, place = path.read_bytes(), 0
        while place < len(content):
            (length,) = struct.unpack_from("<Q", content, place)
            event = Event.FromString(content[place + 12 : place + 12 + length])
            values += [(event.step, value) for value in event.summary.value]
            place += 16 + length
    return values


def test_csv_and_tensorboard_get_every_figure_and_the_tables(run, tmp_path):
    cell, tables = Run(run).own, build_tables(run)
    wanted = figures(cell.result("matching"), cell)
    table, curves = CSVLogger(tmp_path / "csv"), TensorBoardLogger(tmp_path / "board")
    for logger in (table, curves):
        log_cell(logger, cell, prefix="e8/", tables=tables)
    logged = metrics(table)
    assert {name: logged[f"e8/{name}"] for name in wanted} == pytest.approx(wanted)
    assert logged["e8/table1/AR&D/l3/e8/f1"] == 0.5
    assert logged["e8/table4/Poly. Feats./l2/ms"] == 2
    assert logged["e8/table3/AR&D/l3/e8/sad-happy/sensitivity"] == 0.5
    shown = {value.tag: value.simple_value for _, value in board(curves)}
    named = {re.sub(r"[^-/\w.]", "_", name): value for name, value in logged.items() if name != "step"}  # as it must be
    assert shown == pytest.approx(named, rel=1e-6)


@pytest.fixture
def data(tmp_path):
    write_activations(tmp_path / "activations", [({"id": f"c{n}"}, torch.randn(50, 8)) for n in range(8)])
    return ActivationDataModule(tmp_path / "activations", layer=0, batch_tokens=50, buffer_tokens=100)


@pytest.mark.parametrize("kind", [CSVLogger, TensorBoardLogger])
def test_other_loggers_get_what_they_can_show_of_a_training(data, tmp_path, kind):
    logger, callback = kind(tmp_path / "logs"), LogTraining(histograms_every=10, rare_below=0.05)
    module = SAETraining(8, [2, 4], k=2, robust=True)
    options = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(max_steps=20, log_every_n_steps=10, logger=logger, callbacks=[callback], **options)
    norms = []
    module.on_before_optimizer_step = lambda optimizer: norms.append(
        float(torch.cat([p.grad.flatten() for p in module.by_expansion[4].parameters() if p.grad is not None]).norm())
    )
    trainer.fit(module, data)
    if kind is CSVLogger:
        logged = metrics(logger)
        assert logged["train/tokens"] == 1000
        assert logged["train/tokens_per_s"] > 0
        assert 0 <= logged["train/waited_s"] < 10
        assert logged["train/e4/gradient_norm"] == pytest.approx(norms[-1], rel=1e-5)
        assert logged["train/e4/explained_variance"] == pytest.approx(1 - logged["train/e4/fvu"], abs=1e-5)
        assert logged["train/e2/l0"] == pytest.approx(2 * (1 - logged["train/e2/not_positive_share"]), rel=1e-5)
        assert 0 <= logged["train/e2/rare_share"] <= 1
    else:
        histograms = [(step, value.tag, value.histo) for step, value in board(logger) if value.HasField("histo")]
        names = {f"train/e{e}/{name}" for e in (2, 4) for name in ("firing_frequency", "decoder_norms")}
        assert {name for _, name, _ in histograms} == names
        shown = [(step, histogram) for step, name, histogram in histograms if name == "train/e4/firing_frequency"]
        assert [step for step, _ in shown] == [10, 20]
        assert shown[-1][1].num == 32
        assert 0 < shown[-1][1].sum <= 2 + 1e-6  # a token has at most two active features


def test_figures_are_named_after_the_evaluation_and_others_methods_and_shifts(tmp_path):
    cell = Run(tmp_path).cell(2, 8)
    one = {"f1": Figure(0.5, 0.4, math.nan, 3, "share")}
    rows = (Row("AR&D", 2, 8, one), Row("Mean Act.", 2, 8, one), Row("AR&D", 2, 8, one, "sad", "happy"))
    details = {
        "num": 3,
        "by": {"a": 1.5},
        "ok": True,
        "none": math.nan,
        "list": [1, 2],
        "rows": {"x": {"a": 1}, "y": {"a": 2}},
    }
    named = figures(Result("matching", rows, {}, details), cell)
    assert named == {
        "matching/f1": 0.5,
        "matching/f1/low": 0.4,
        "matching/Mean Act./f1": 0.5,
        "matching/Mean Act./f1/low": 0.4,
        "matching/sad to happy/f1": 0.5,
        "matching/sad to happy/f1/low": 0.4,
        "matching/details/num": 3,
        "matching/details/by/a": 1.5,
    }


def test_clips_of_the_first_concepts_play_as_far_as_there_is_room(run):
    cell = Run(run).own
    shard = next((run / "audio").rglob("*.tar"))
    size = shard.stat().st_size
    rows = {}
    for megabytes in (1.0, 0.0):
        cell.tracking.unlink(missing_ok=True)
        log_cell(WandbLogger(cell.folder, audio_mb=megabytes), cell)
        wandb.teardown()
        (id_,) = {entry["id"] for entry in json.loads(cell.tracking.read_text(encoding="utf-8")).values()}
        rows[megabytes] = read_runs(run)[id_].table("concepts")
    assert size < 1e6
    assert [row["name"] for row in rows[1.0]] == [row["name"] for row in rows[0.0]]
    played = [clip for row in rows[1.0] for name, clip in row.items() if name.startswith("clip ") and clip]
    assert all(np.isfinite(soundfile.read(clip["file"])[0]).all() for clip in played)
    assert played
    assert not any(name.startswith("clip ") for row in rows[0.0] for name in row)


LOGGED = """
from ard.run import Run
from ard.tracking import WandbLogger, log_cell
from pathlib import Path

cell = Run(Path({folder!r})).own
log_cell(WandbLogger(cell.folder), cell)
"""


def test_wandb_mode_is_heeded(run):
    with serve() as served:
        run_python(served, "-c", LOGGED.format(folder=str(run)))  # as a user who has set it to online
    (sent,) = served.runs.values()
    cell = Run(run).own
    wanted = figures(cell.result("matching"), cell)
    assert {name: sent.summary[name] for name in wanted} == pytest.approx(wanted)
    assert (sent.group, sent.exit_code) == (str(run), 0)
    assert not read_runs(run)
    assert "0" * 40 not in cell.tracking.read_text(encoding="utf-8")
    cell.tracking.unlink()
    command = [sys.executable, "-c", LOGGED.format(folder=str(run))]
    subprocess.run(command, env={**os.environ, "WANDB_MODE": "disabled"}, check=True, capture_output=True)
    assert not read_runs(run)
    assert not cell.tracking.exists()


def test_a_training_that_was_killed_goes_on_in_its_wandb_run(tmp_path):
    folder = tmp_path / "layer-3" / "e8"
    killed = WandbLogger(folder, stage="fit")
    killed.describe({"fit": {"k": 4}})
    killed.experiment.log({"train/fvu": 0.5})
    wandb.teardown()
    resumed = WandbLogger(folder, stage="fit")
    resumed.describe({"fit": {"k": 4}})
    resumed.experiment.log({"train/fvu": 0.25})
    assert resumed.experiment.id == killed.entry.id
    resumed.finish()
    wandb.teardown()
    (one,) = read_runs(tmp_path).values()
    assert [row["train/fvu"] for row in one.history if "train/fvu" in row] == [0.5, 0.25]
