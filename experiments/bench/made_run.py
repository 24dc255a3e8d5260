"""A run that nobody trained, with every file that a report shows, for as many concepts as are asked for.

Its sounds are real ones of the synthetic corpus; its numbers are drawn at random and mean nothing.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file
from torch import Tensor

from ard.audio import SyntheticCorpus, write_audio_shards
from ard.results import Figure, Result, Row, write_json
from ard.run import Cell, Run, write_parquet
from ard.types import Clip

LAYER, EXPANSION, P, D_IN, D_NAMES = 3, 8, 4, 64, 64
SECONDS_PER_TOKEN = 0.04
MANNERS = (
    "loud",
    "quiet",
    "distant",
    "near",
    "sudden",
    "steady",
    "fading",
    "rising",
    "hollow",
    "sharp",
    "soft",
    "harsh",
)
TASK = "sad to happy"


def write_run(folder: Path, num_concepts: int, num_clips: int, duration_s: float, num_sounds: int = 200) -> Run:
    """Write a run's folder and return it.

    Args:
        folder: the folder.
        num_concepts: selected features; a few more are not selected.
        num_clips: clips of the probing set, each joined from ``num_sounds`` clips of the synthetic corpus.
        duration_s: how long each clip is.
        num_sounds: clips of the synthetic corpus that are made.
    """
    rng = np.random.default_rng(0)
    about: dict[str, Any] = {"preset": "made", "seed": 0, "model": "none", "data": "simulated sounds, joined at random"}
    about |= {"layers": [LAYER], "expansions": [EXPANSION], "layer": LAYER, "expansion": EXPANSION, "p": P}
    write_json(folder / "run.json", about | {"num_selected": num_concepts})
    run = Run.load(folder)
    _write_clips(run, rng, num_clips, duration_s, num_sounds)
    remake_concepts(run, num_concepts)
    return run


def remake_concepts(run: Run, num_concepts: int) -> None:
    """Write another number of concepts of the same clips."""
    clips = pq.read_table(run.clips).to_pylist()
    _write_concepts(run.own, clips, num_concepts, np.random.default_rng(num_concepts))


def _write_clips(run: Run, rng: np.random.Generator, num_clips: int, duration_s: float, num_sounds: int) -> None:
    """Write audio shards and clips.parquet."""
    sounds = list(SyntheticCorpus("bench", num_sounds))
    rate, rows = sounds[0].sample_rate_hz, []

    def joined() -> Iterator[Clip]:
        for number in range(num_clips):
            drawn = [sounds[place] for place in rng.integers(len(sounds), size=math.ceil(duration_s / 1.5))]
            waveform = np.concatenate([clip.waveform for clip in drawn])[: round(duration_s * rate)]
            labels = tuple(dict.fromkeys(label for clip in drawn for label in clip.labels or ()))
            clip = replace(sounds[0], id=f"clip {number}", waveform=waveform, caption=drawn[0].caption, labels=labels)
            rows.append(
                {
                    "id": clip.id,
                    "dataset": "made",
                    "split": "probe",
                    "duration_s": duration_s,
                    "sample_rate_hz": rate,
                    "num_tokens": round(duration_s / SECONDS_PER_TOKEN),
                    "seconds_per_token": SECONDS_PER_TOKEN,
                    "labels": list(labels),
                    "caption": clip.caption,
                }
            )
            yield clip

    write_audio_shards(joined(), run.audio("probe"))
    write_parquet(rows, run.clips)


def _write_concepts(cell: Cell, clips: Sequence[dict[str, Any]], num_concepts: int, rng: np.random.Generator) -> None:
    """Write every file of a cell that a report reads; clips are shared only where there are too few."""
    num_features = num_concepts + 8
    features = np.sort(rng.choice(num_features, num_concepts, replace=False))
    places = np.concatenate([rng.permutation(len(clips)) for _ in range(1 + num_features * P // len(clips))])
    top = places[: num_features * P].reshape(num_features, P)
    m = rng.gamma(2.0, 2.0, num_features)
    chosen = dict(zip(features.tolist(), _names(clips, top, features, rng), strict=True))
    rows = []
    for feature in range(num_features):
        name = chosen.get(feature)
        rows.append(
            {
                "feature": feature,
                "layer": cell.layer,
                "name": name,
                "made_from": "captions" if name else None,
                "support": [f"{name} in 3 of {P} clips"] if name else [],
                "m": float(m[feature]),
                "q_value": float(np.exp(-m[feature])),
                "n_active": int(rng.integers(1, len(clips) + 1)),
                "selected": feature in chosen,
                "top_ids": [clips[clip]["id"] for clip in top[feature]],
                "bottom_ids": [clip["id"] for clip in clips[:P]],
                "captions": [clips[clip]["caption"] for clip in top[feature]],
                "candidates": [name, "noise"] if name else [],
                "agreement": float(rng.random()),
                "no_name_because": None if name else "no two captions agree",
                "clap": float(rng.random()),
            }
        )
    cell.save_rows("concepts", rows)
    named = [feature for feature in features.tolist() if chosen[feature]]
    _write_tables(cell, named, rng)
    _write_tensors(cell, features, m, clips[0]["num_tokens"], rng)
    middles = rng.normal(size=(1 + num_concepts // 40, D_NAMES))
    around = middles[rng.integers(len(middles), size=len(named))] + rng.normal(scale=0.3, size=(len(named), D_NAMES))
    cell.save_tensors("name_embeddings", {"features": torch.tensor(named), "embeddings": torch.tensor(around).half()})
    _write_results(cell, named)


def _names(
    clips: Sequence[dict[str, Any]], top: np.ndarray, features: np.ndarray, rng: np.random.Generator
) -> Iterator[str | None]:
    """Yield a name of the first clip's sound in some manner; one in twenty has none."""
    for place, feature in enumerate(features):
        caption = clips[top[feature][0]]["caption"]
        yield None if place % 20 == 19 else f"{rng.choice(MANNERS)} {rng.choice(MANNERS)} {caption}"


def _write_tables(cell: Cell, named: Sequence[int], rng: np.random.Generator) -> None:
    axes = ("responsiveness", "purity", "sensitivity", "intruder")
    cell.save_rows("detection", ({"feature": f, "detection": float(rng.random()), "n_active_unseen": 3} for f in named))
    tested = []
    for place, feature in enumerate(named):
        values = {axis: float(rng.random()) for axis in axes}
        fails = ["purity is that of a random name"] if place % 5 == 4 else []
        tested.append(
            {
                "feature": feature,
                **values,
                "purity_chance": 0.25,
                "score": sum(values.values()) / 4,
                "passes": not fails,
                "fails": fails,
            }
        )
    cell.save_rows("axes", tested)
    shares = ({"feature": f, "hearing": float(rng.random()), "hearing_low": 0.0, "hearing_high": 1.0} for f in named)
    cell.save_rows("modality", shares)
    numbers = {"auroc": 0.8, "q_value": 0.01, "effect": 0.2, "effect_low": 0.1, "effect_high": 0.3}
    numbers |= {"effect_by_chance": 0.05, "num_clips": 12, "value": 1.0, "change": 1.0, "norm": 1.0}
    words = {"task": TASK, "source": "sad", "target": "happy", "name": None, "by": "name", "kind": "both"}
    cell.save_rows("effects", ({**words, **numbers, "feature": f, "output_score": 0.1} for f in named[:50]))


def _write_tensors(cell: Cell, features: np.ndarray, m: np.ndarray, num_tokens: int, rng: np.random.Generator) -> None:
    num_features = len(m)
    values = rng.gamma(0.5, 1.0, size=(len(features), P, num_tokens)).astype(np.float16)
    values[rng.random(values.shape) < 0.5] = 0
    offsets = torch.arange(len(features) * P + 1) * num_tokens
    along = torch.from_numpy(values).flatten()
    cell.save_tensors("timelines", {"features": torch.from_numpy(features), "offsets": offsets, "values": along})
    most = torch.ones(num_features)
    most[torch.from_numpy(features)] = torch.from_numpy(values.max(axis=(1, 2)).astype(np.float32))
    edges, places = (torch.zeros(num_features, P, dtype=torch.int64) for _ in range(2))
    stored = {"max_activation": most, "ard/top_first": edges, "ard/top_last": edges + num_tokens - 1}
    cell.save_tensors("representatives", {**stored, "ard/top_strongest": places})
    by_chance = torch.from_numpy(rng.normal(size=num_features))
    scored: dict[str, Tensor] = {"ard/m": torch.from_numpy(m), "ard/m_by_chance": by_chance}
    cell.save_tensors("selections", {**scored, "ard/p_value": torch.from_numpy(np.exp(-m) / 2)})
    cell.sae.mkdir(parents=True, exist_ok=True)
    directions = torch.from_numpy(rng.normal(size=(num_features, D_IN)).astype(np.float32))
    save_file({"W_dec": directions}, cell.sae / "sae_weights.safetensors")
    (cell.sae / "cfg.json").write_text(json.dumps({"d_in": D_IN, "d_sae": num_features}), encoding="utf-8")


def _write_results(cell: Cell, named: Sequence[int]) -> None:
    share = Figure(0.5, 0.4, 0.6, 20, "share of clips", over="clips")
    per_label = {f"label {number}": {"auroc": 0.9, "feature": f, "num_clips": 9} for number, f in enumerate(named[:20])}
    row = cell.row({"share_found": share})
    Result("label_auroc", (row,), {}, {"per_label": per_label}).save(cell.result_path("label_auroc"))

    def at(multiple: float | None, value: float) -> dict[str, Any]:
        numbers = {"value": value, "low": value, "high": value, "n": 20}
        return {"multiple": multiple, "sensitivity": numbers, "readable": numbers, "perplexity": 1 + 9 * value}

    doses = [at(None, 0.0), at(0.0, 0.1), at(1.0, 0.5), at(2.0, 0.9)]
    chosen = {"by": "name", "multiple": 1.0, "features": [{"feature": feature} for feature in named[:2]]}
    tasks = {TASK: {"chosen": chosen, "dose_response": doses}}
    steered = Row("AR&D", cell.layer, cell.expansion, {"sensitivity": share}, "sad", "happy")
    Result("steering", (steered,), {}, {"tasks": tasks}).save(cell.result_path("steering"))
