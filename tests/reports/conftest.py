"""A small run's folder, written from the files that the pipeline writes."""

import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import webdataset as wds

from ard.results import Figure, Result, Row
from ard.run import MANIFEST, Run

NASTY = ["dog <b>&\"'", "sub folder/naïve café", "雨 & 'rain'", "v1.2/take.3"]
METRICS = ("ms", "precision", "recall", "f1", "map")
BASELINES = ("Rand. Rep.", "Mean Act.", "Coverage", "AR&D")
SHIFTS = (("neutral", "happy"), ("sad", "happy"), ("happy", "angry"), ("female", "male"))


def figure(value):
    return Figure(float(value), value - 0.1, value + 0.1, 40, "share")


def save(path, rows, **details):
    Result(path.stem, tuple(rows), {"gamma": 0.7, "ties": "stable"}, details, 0, 1.5).save(path)


def write_results(run, layers=(1, 2, 3), expansions=(4, 8, 16), main=3):
    """Write results whose value says where it is from: layer + expansion / 100."""
    for layer in layers:
        folder = run / f"layer-{layer}"
        poly = Row("Poly. Feats.", layer, None, {"ms": figure(layer), "mean_ms_top_share": figure(0.1)})
        save(folder / "poly/monosemanticity.json", [poly])
        for e in expansions:
            ours = Row("AR&D", layer, e, {"ms": figure(layer + e / 100)})
            save(folder / f"e{e}/monosemanticity.json", [ours])
    folder = run / f"layer-{main}"
    figures = {name: figure(0.2 + place / 10) for place, name in enumerate(METRICS)}
    save(folder / "poly/matching.json", [Row("Poly. Feats.", main, None, figures)])
    rows = [Row(name, main, 8, figures, note="over 10 draws" if name == "Rand. Rep." else None) for name in BASELINES]
    save(folder / "e8/matching.json", rows[::-1])
    methods = ("AR&D", "No SAE", "Poly. Feats.", "SAE, no clamp")
    steered = [
        Row(method, main, 8, {"sensitivity": figure(0.5)}, source, target)
        for method in methods
        for source, target in SHIFTS[::-1]
    ]
    save(folder / "e8/steering.json", steered)
    found = Row("AR&D", main, 8, {"share_found": figure(0.9), "mean_auroc": figure(0.8)})
    per_label = {
        "dog": {"auroc": 0.97, "feature": 7},
        "rain": {"auroc": 0.6, "feature": 9},
        "<wind>": {"auroc": None, "feature": None},
    }
    save(folder / "e8/label_auroc.json", [found], per_label=per_label)


def write_clips(run, ids, *, rate=16000):
    (run / "audio/probe").mkdir(parents=True)
    waves = []
    for place, _ in enumerate(ids):
        t = np.arange(rate // 2) / rate
        waves.append((np.sin(2 * np.pi * 220 * (1 + place) * t) * np.exp(-6 * t)).astype("float32"))
    with wds.TarWriter(str(run / "audio/probe/000000.tar")) as shard:
        for place, (clip_id, wave) in enumerate(zip(ids, waves, strict=True)):
            flac = run / "one.flac"
            soundfile.write(flac, wave, rate)
            known = {"id": clip_id, "dataset": "test", "duration_s": 0.5, "sample_rate_hz": rate}
            shard.write({"__key__": f"{place:06d}", "flac": flac.read_bytes(), "json": json.dumps(known).encode()})
    flac.unlink()
    (run / "audio/probe" / MANIFEST).write_text("{}", encoding="utf-8")  # they are finished
    columns = {
        "id": ids,
        "dataset": ["test"] * len(ids),
        "split": ["probe"] * len(ids),
        "duration_s": [0.5] * len(ids),
        "sample_rate_hz": [rate] * len(ids),
        "num_tokens": [12] * len(ids),
        "labels": pa.array([["dog", "rain"]] * len(ids), pa.list_(pa.string())),
        "caption": pa.array(["a dog & <i>rain</i>"] + [None] * (len(ids) - 1), pa.string()),
        "emotion": pa.array([None] * len(ids), pa.string()),
        "gender": pa.array([None] * len(ids), pa.string()),
    }
    pq.write_table(pa.table(columns), run / "clips.parquet")


def concept(feature, m, ids, **changes):
    row = {
        "feature": feature,
        "layer": 3,
        "name": f"name {feature}",
        "m": m,
        "n_active": 0 if math.isnan(m) else feature + 1,
        "selected": not math.isnan(m),
        "top_ids": ids[:2],
        "bottom_ids": ids[2:],
        "captions": ["<script>alert(1)</script>", "a dog barks"],
        "candidates": ["dog", "bark"],
        "agreement": 0.75,
        "clap": None,
    }
    return row | changes


def write_concepts(run, rows):
    texts = pa.list_(pa.string())
    fields = [("feature", pa.int64()), ("layer", pa.int64()), ("name", pa.string()), ("m", pa.float64())]
    fields += [("n_active", pa.int64()), ("selected", pa.bool_()), ("top_ids", texts), ("bottom_ids", texts)]
    fields += [("captions", texts), ("candidates", texts), ("agreement", pa.float64()), ("clap", pa.float64())]
    fields += [("made_from", pa.string()), ("support", texts)]
    path = run / "layer-3/e8/concepts.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, pa.schema(fields)), path)


def write_detection(run, areas):
    """Write how well names tell where their features fire, by feature."""
    rows = [{"feature": feature, "detection": area, "n_active_unseen": 3} for feature, area in areas.items()]
    Run(run).cell(3, 8).save_rows("detection", rows)


def write_about(run, **changes):
    about = {"preset": "demo", "seed": 3, "model": "tiny <model>", "data": "Simulated clips & nothing else."}
    about |= {"layers": [1, 2, 3], "expansions": [4, 8, 16], "layer": 3, "expansion": 8, "p": 2, "num_selected": 2}
    (run / "run.json").write_text(json.dumps(about | changes), encoding="utf-8")


@pytest.fixture
def run(tmp_path) -> Path:
    """Make a whole run: two concepts and a dead feature, one failure."""
    write_about(tmp_path)
    write_results(tmp_path)
    write_clips(tmp_path, NASTY)
    write_concepts(
        tmp_path,
        [concept(5, 1.5, NASTY), concept(7, 9.25, NASTY, name="dog & <bark>"), concept(9, math.nan, NASTY, name=None)],
    )
    write_detection(tmp_path, {5: 0.934, 7: 0.934})
    failure = {"id": "broken <1>.wav", "stage": "audio", "reason": "empty & silent"}
    (tmp_path / "failures.json").write_text(json.dumps({"failures": [failure]}), encoding="utf-8")
    return tmp_path
