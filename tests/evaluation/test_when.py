"""The evaluator on features that are planted: raw coordinates that are active when a label is heard, or not."""

import json
import math

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from ard.activations.store import write_clips_table, write_manifest, write_shard
from ard.evaluation import TimeConcepts, when
from ard.reports.concepts import read_concepts
from ard.results import Result
from ard.run import Run
from ard.sae import PolyFeatures, TopKSAE

TOKENS, S = 40, 0.04
LABELS = ("cat", "dog")
D_IN = 8
ENDS = ("", "_low", "_high")
SQUARE_CAT, SQUARE_DOG, LATE_DOG, CLIP_DOG, NOISE, SILENT, FAINT_DOG, HALF_DOG = range(D_IN)


def draw_clip(rng, number):
    """Return a clip's events, and its activations: what every coordinate is planted to be."""
    heard = {label: np.zeros(TOKENS, dtype=bool) for label in LABELS}
    for label in LABELS if number % 3 == 2 else (LABELS[number % 3],):
        for first in rng.permutation(np.arange(4, TOKENS - 8, 9))[:2]:
            heard[label][first : first + rng.integers(3, 6)] = True
    events = [
        {"onset_s": (t + 0.01) * S, "offset_s": (t + 0.99) * S, "label": label}
        for label, of in heard.items()
        for t in np.flatnonzero(of).tolist()
    ]
    x = np.zeros((TOKENS, D_IN))
    x[:, SQUARE_CAT], x[:, SQUARE_DOG] = heard["cat"], 3 * heard["dog"]
    x[:, LATE_DOG] = np.roll(heard["dog"], 2)
    x[:, CLIP_DOG] = heard["dog"].any() * (1 + rng.random(TOKENS))  # knows which clips, and not when
    x[:, NOISE] = rng.random(TOKENS)
    x[:, FAINT_DOG] = heard["dog"] * (0.2 + 0.6 * (rng.random(TOKENS) < 0.5))
    x[:, HALF_DOG] = heard["dog"] & (rng.random(TOKENS) < 0.5)
    return events, torch.from_numpy(x).float()


def extract(folder, seed, num_clips, **more):
    rng = np.random.default_rng(seed)
    about = {"model": "none", "layers": [0], "dtype": "float32"}
    clips = []
    for number in range(num_clips):
        events, x = draw_clip(rng, number)
        description = {"id": f"{folder.name}-{number}", "num_tokens": TOKENS, "seconds_per_token": S, "events": events}
        clips.append(({**description, **{key: of(number) for key, of in more.items()}}, {0: x}))
    for shard in range(0, num_clips, 16):
        write_shard(folder, shard // 16, clips[shard : shard + 16], [], about)
    write_manifest(folder, -(-num_clips // 16), D_IN, about)


def select(cell, features):
    ids = torch.zeros(len(features), 4, dtype=torch.int64)
    selection = {"features": torch.tensor(features), "m": torch.ones(len(features)), "top_ids": ids}
    cell.save_tensors("selections", {f"ard/0/{name}": tensor for name, tensor in selection.items()})


@pytest.fixture
def cell(tmp_path):
    run = Run(tmp_path)
    extract(run.activations("probe"), 0, 60)
    extract(run.activations("eval"), 1, 45)
    select(run.cell(0, None), [NOISE, SQUARE_DOG, LATE_DOG, CLIP_DOG, SILENT, FAINT_DOG, HALF_DOG])
    return run.cell(0, None)


def test_a_square_wave_tells_when_exactly_and_shifted_events_are_at_chance(cell):
    result = TimeConcepts()(cell)
    assert [row.method for row in result.rows] == ["Poly. Feats.", "Poly. Feats., events shifted"]
    own, shifted = (row.figures for row in result.rows)
    assert (own["auroc"].value, own["iou"].value, own["lag_ms"].value, own["onsets_met"].value) == (1, 1, 0, 1)
    assert own["told"].value == 1
    assert "told" not in shifted
    assert {of.better for of in shifted.values()} == {"neither"}
    for label, feature in (("cat", SQUARE_CAT), ("dog", SQUARE_DOG)):
        of_label = result.details["per_label"][label]
        assert (of_label["feature"], of_label["num_clips"], of_label["told"]) == (feature, 30, True)
        assert [of_label[f"auroc{end}"] for end in ENDS] == [of_label[f"iou{end}"] for end in ENDS] == [1, 1, 1]
        assert [of_label[f"lag_ms{end}"] for end in ENDS] == [0, 0, 0]
        assert [of_label[f"above_shifted{end}"] for end in ENDS] == pytest.approx([0.5] * 3, abs=0.05)
        assert of_label["above_shifted_low"] < 0.5 < of_label["above_shifted_high"]  # shifted events are at chance
        assert of_label["auroc_shifted"] == pytest.approx(0.5, abs=0.02)
        assert of_label["iou_shifted"] < 0.3
    assert result.details["num_clips"] == {"probe": 60, "eval": 45}
    assert result.details["not_measured"] == []


def test_tokens_of_text_have_no_time(cell):
    for folder in (cell.probe, cell.evaluation):
        extract(folder, 0, 20, seconds_per_token=lambda number: None)
    assert TimeConcepts()(cell) is None


def test_every_selected_feature_has_the_label_that_it_tells_best(cell):
    TimeConcepts()(cell)
    rows = {row["feature"]: row for row in cell.rows("timing")}
    assert list(rows) == [SQUARE_DOG, LATE_DOG, CLIP_DOG, NOISE, SILENT, FAINT_DOG, HALF_DOG]
    assert {rows[feature]["event"] for feature in (SQUARE_DOG, LATE_DOG, FAINT_DOG, HALF_DOG)} == {"dog"}
    square, late, faint, half = (rows[feature] for feature in (SQUARE_DOG, LATE_DOG, FAINT_DOG, HALF_DOG))
    assert (square["event_auroc"], square["event_iou"], square["event_lag_ms"]) == (1, 1, 0)
    assert late["event_lag_ms"] == pytest.approx(2 * S * 1000)
    assert 0.5 < late["event_auroc"] < 0.9
    assert faint["event_iou"] == 1  # its threshold is below the fainter of its two levels
    assert half["event_auroc"] == pytest.approx(0.75, abs=0.05)
    assert half["event_iou"] == pytest.approx(0.5, abs=0.1)
    assert all(row["event_told"] for row in (square, late, faint, half))
    for feature in (CLIP_DOG, NOISE):
        assert rows[feature]["event"] is None or rows[feature]["event_auroc"] == pytest.approx(0.5, abs=0.06)
        assert not rows[feature]["event_told"]
    assert rows[SILENT]["event"] is None
    assert math.isnan(rows[SILENT]["event_auroc"])


def test_concepts_are_read_with_what_they_tell(cell):
    concepts = [{"feature": feature, "name": None, "top_ids": []} for feature in range(D_IN)]
    cell.save_rows("concepts", concepts)
    assert "event" not in read_concepts(cell)[SQUARE_DOG]
    TimeConcepts()(cell)
    read = read_concepts(cell)
    assert (read[SQUARE_DOG]["event"], read[SQUARE_DOG]["event_auroc"]) == ("dog", 1)
    assert read[SQUARE_CAT]["event"] is None  # it is not selected


def test_codes_of_an_sae_are_measured_as_their_dense_activations(cell, tmp_path):
    """Identity rows of an encoder, whose TopK keeps what is planted, give what the coordinates give."""
    select(cell.run.cell(0, 1), [SQUARE_DOG, LATE_DOG])
    sae = TopKSAE(D_IN, D_IN, k=6)
    with torch.no_grad():
        sae.W_enc.copy_(torch.eye(D_IN))
        sae.b_enc.zero_()
    ours, raw = TimeConcepts()(cell.run.cell(0, 1), sae), TimeConcepts()(cell, PolyFeatures(D_IN))
    for label in LABELS:
        of_sae, of_coordinates = ours.details["per_label"][label], raw.details["per_label"][label]
        assert of_sae == pytest.approx(of_coordinates)


def test_labels_with_few_clips_and_those_heard_all_the_time_are_left_out(cell, tmp_path):
    result = TimeConcepts(least_clips=31)(cell)
    assert result is None
    assert not cell.result_path("timing").is_file()
    assert not cell.path("timing").is_file()
    run = Run(tmp_path / "filled")
    extract(run.activations("probe"), 0, 30, events=lambda number: [{"onset_s": 0, "offset_s": 9, "label": "rain"}])
    extract(run.activations("eval"), 1, 30)
    select(run.cell(0, None), [0])
    assert TimeConcepts()(run.cell(0, None)) is None


def test_without_events_or_an_evaluation_set_nothing_is_written(tmp_path):
    for name, splits in (("no events", ("probe", "eval")), ("no eval", ("probe",))):
        run = Run(tmp_path / name)
        for split in splits:
            extract(run.activations(split), 0, 20, **({"events": lambda number: []} if len(splits) == 2 else {}))
        select(run.cell(0, None), [0])
        assert TimeConcepts()(run.cell(0, None)) is None
        assert [path.name for path in run.cell(0, None).folder.iterdir()] == ["monosemanticity.safetensors"]


def test_only_so_many_clips_are_read_and_groups_are_resampled_together(tmp_path):
    run = Run(tmp_path)
    extract(run.activations("probe"), 0, 60)
    extract(run.activations("eval"), 1, 45, group=lambda number: f"g{number % 2}")
    select(run.cell(0, None), [HALF_DOG])
    of_groups = TimeConcepts(most_clips=30)(run.cell(0, None))
    assert of_groups.details["num_clips"] == {"probe": 30, "eval": 30}
    (again,) = {json.dumps(TimeConcepts(most_clips=30)(run.cell(0, None)).details)}
    assert again == json.dumps(of_groups.details)
    one_group = Run(tmp_path / "one")
    extract(one_group.activations("probe"), 0, 60)
    extract(one_group.activations("eval"), 1, 45, group=lambda number: "g")
    select(one_group.cell(0, None), [HALF_DOG])
    of_dog = TimeConcepts()(one_group.cell(0, None)).details["per_label"]["dog"]
    assert of_dog["auroc"] == 1
    assert math.isnan(of_dog["auroc_low"])


def test_codes_that_are_made_again_give_what_those_that_are_kept_do(cell, monkeypatch):
    kept = TimeConcepts()(cell).details
    monkeypatch.setattr(when, "KEPT_TOKENS", 0)
    assert TimeConcepts()(cell).details == kept


def test_the_result_is_written_with_its_choices(cell):
    TimeConcepts(seed=3)(cell)
    saved = Result.load(cell.result_path("timing"))
    assert saved.seed == 3
    assert saved.choices["lag"].startswith("median over onsets answered within 250 ms")
    assert saved.details["per_label"]["dog"]["num_onsets"] == 60


def test_clips_parquet_has_the_events(cell, tmp_path):
    write_clips_table(cell.run.activations("probe"), cell.run.clips, "probe")
    first = pq.read_table(cell.run.clips).to_pylist()[0]["events"][0]
    assert set(first) == {"onset_s", "offset_s", "label"}
