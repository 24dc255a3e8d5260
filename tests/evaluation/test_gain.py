"""What a trained dictionary has beyond untrained ones: paired where it can be, and honest where it cannot."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from ard.evaluation.gain import measure_gain, paired_gain, unpaired_gain
from ard.reports import build_tables
from ard.results import Figure, Result, Row
from ard.run import Run
from tests.reports.conftest import write_about

LABELS = [f"label {n}" for n in range(40)]


def save(run, folder, evaluation, method, figures, expansion=8, **details):
    rows = (Row(method, 3, expansion, figures),) if isinstance(figures, dict) else figures
    Result(evaluation, tuple(rows), {"found": 0.9, "trained_in": "bf16-mixed"}, details).save(
        run / f"layer-3/{folder}/{evaluation}.json"
    )


def figure(value, margin=0.1, n=40):
    return Figure(value, value - margin, value + margin, n, "share", over="concepts")


@pytest.fixture
def run(tmp_path):
    """A run with two untrained draws: labels are found better by training, and m is the same."""
    write_about(tmp_path)
    rng = np.random.default_rng(0)
    hard = rng.uniform(0.4, 0.95, len(LABELS))  # how hard a label is varies more than what training gives
    for folder, method, more in (
        ("e8", "AR&D", 0.04),
        ("e8-untrained-0", "Untrained SAE", 0.0),
        ("e8-untrained-1", "Untrained SAE", 0.005),
    ):
        areas = hard + more + rng.normal(0, 0.005, len(LABELS))
        per_label = {label: {"auroc": float(area), "feature": 1} for label, area in zip(LABELS, areas, strict=True)}
        mean = Figure.estimate(areas, np.mean, "AUROC", over="labels", seed=0)
        save(tmp_path, folder, "label_auroc", method, {"mean_auroc": mean}, per_label=per_label)
        save(tmp_path, folder, "monosemanticity", method, {"mean_ms": figure(5.0 + more, 0.3)})
        reached = {f"c{n}": float(n % 10 < (9 if method == "AR&D" else 3)) for n in range(30)} | {"unread": None}
        steered = [Row(method, 3, 8, {"sensitivity": figure(0.9)}, source="sad", target="happy")]
        save(tmp_path, folder, "steering", method, steered, tasks={"sad to happy": {"reached": reached}})
    return Run(tmp_path)


def gains(run):
    return {(row.method, row.source): row for row in measure_gain(run).rows}


def test_what_is_measured_on_the_same_labels_is_paired(run):
    assert measure_gain(run).choices["trained_in"] == "bf16-mixed"
    row = gains(run)["label_auroc/mean_auroc", None]
    trained, untrained, gain = (row.figures[name] for name in ("trained", "untrained", "gain"))
    assert trained.low < untrained.value < trained.high  # side by side, the labels' spread hides the difference
    assert 0.03 < gain.low < gain.value < gain.high < 0.05
    assert (gain.over, row.note) == ("labels and draws", "paired over labels")
    assert (untrained.n, untrained.over) == (2, "draws, lowest to highest")
    assert untrained.low < untrained.value < untrained.high
    assert untrained.spread > 0


def test_steered_answers_are_paired_by_clip_and_shift(run):
    gain = gains(run)["steering/sensitivity", "sad"].figures["gain"]
    assert (gain.value, gain.n, gain.over) == (pytest.approx(0.6), 30, "clips and draws")
    assert gain.low > 0.3


def test_what_cannot_be_paired_adds_up_variances(run):
    row = gains(run)["monosemanticity/mean_ms", None]
    gain = row.figures["gain"]
    assert row.note is None
    assert gain.value == pytest.approx(0.0375)
    assert gain.low < -0.3 < 0.3 < gain.high
    alone = unpaired_gain(figure(0.5), [figure(0.3)])
    assert (alone.high - alone.low) / 2 == pytest.approx(math.hypot(0.1, 0.1), rel=1e-3)
    without = unpaired_gain(Figure(9.0, math.nan, math.nan, 40, "m"), [figure(0.3)])
    assert math.isnan(without.low)  # a maximum has no interval, and its gain has none either


def test_without_a_difference_the_interval_holds_zero():
    rng, held = np.random.default_rng(1), 0
    for seed in range(100):
        hard = rng.normal(0, 1, 60)
        trained, untrained = hard + rng.normal(0, 0.1, 60), hard + rng.normal(0, 0.1, (3, 60))
        gain = paired_gain(trained, untrained, "share", over="clips", seed=seed)
        held += gain.low <= 0 <= gain.high
    assert held >= 88


def test_the_table_puts_first_what_training_gives(run):
    measure_gain(run)
    (table,) = build_tables(run.folder, [0])
    assert [line.stub for line in table.lines] == [
        ("label AUROC", "better"),
        ("steering (Table 3), sad to happy", "better"),
        ("mean m of the top C", "not told apart"),
    ]
    assert table.notes[0].startswith("2 of 3 figures tell the trained dictionary from the untrained ones. The other 1")
    assert table.columns == ["Figure", "Trained is", "AR&D", "Untrained SAE", "gain"]
    assert table.caption.startswith("What training gives")


def test_less_absorption_is_better(run):
    for folder, method, value in (("e8", "AR&D", 0.3), ("e8-untrained-0", "Untrained SAE", 0.6)):
        absorption = replace(figure(value), better="lower")
        save(run.folder, folder, "probes", method, {"absorption": absorption})
    measure_gain(run)
    lines = build_tables(run.folder, [0])[0].lines
    assert ("absorption, less is better", "better") in [line.stub for line in lines]


def test_without_untrained_dictionaries_there_is_nothing_to_compare(tmp_path):
    write_about(tmp_path)
    save(tmp_path, "e8", "monosemanticity", "AR&D", {"mean_ms": figure(5.0)})
    assert measure_gain(Run(tmp_path)) is None
    (table,) = build_tables(tmp_path, [0])
    assert not table.lines
    assert "no gain.json (it has no untrained dictionaries: set num_untrained)" in table.notes[0]


def test_draws_stand_in_tables_as_one_row(run):
    rows = {row["method"]: row for row in build_tables(run.folder, [4])[0].rows}
    assert set(rows) == {"AR&D", "Untrained SAE"}
    assert rows["Untrained SAE"]["mean_ms"]["value"] == pytest.approx(5.0025)


def test_names_are_paired_over_the_same_clips_in_every_cell(run):
    """Both dictionaries find the same clips hard: their resamples move together, and the difference hardly at all."""
    hard = np.random.default_rng(0).normal(0.5, 0.05, (1, 1001, 1)).repeat(5, axis=2)
    for folder, method, more in (
        ("e8", "AR&D", 0.06),
        ("e8-untrained-0", "Untrained SAE", 0.0),
        ("e8-untrained-1", "Untrained SAE", 0.01),
        ("poly", "Poly. Feats.", -0.2),
    ):
        values = hard + more
        f1 = Figure.resampled(values[0, :, 2], 400, "share", over="clips")
        expansion = None if folder == "poly" else 8
        save(run.folder, folder, "matching", method, {"f1": f1}, expansion)
        run.cell(3, folder).save_tensors("resamples", {method: torch.from_numpy(values)})
    row = gains(run)["matching/f1", None]
    gain = row.figures["gain"]
    assert row.figures["trained"].low < row.figures["untrained"].value
    assert (gain.value, gain.over) == (pytest.approx(0.055), "clips and draws")
    assert gain.low == pytest.approx(0.05)
    assert gain.high == pytest.approx(0.06)
    minus = measure_gain(run).details["names_minus"]
    assert {method: round(of["f1"]["value"], 3) for method, of in minus.items()} == {
        "Untrained SAE": 0.055,
        "Poly. Feats.": 0.2 + 0.06,
    }
    notes = build_tables(run.folder, [1])[0].notes
    assert any("Untrained SAE +0.06 [+0.05, +0.06]; Poly. Feats. +0.26" in note for note in notes)
