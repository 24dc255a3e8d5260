"""Concepts in the JSON of other projects: SAEDashboard's, and what Neuronpedia imports.

Neither knows sound: a token is here a stretch of time of a clip, such as ``0.04s``, and a prompt is one of a concept's
most representative clips. Logits and correlations, which they also show, are left empty.

- SAEDashboard (decoderesearch/SAEDashboard 0.8.0, ``sae_dashboard/neuronpedia/neuronpedia_dashboard.py``): files
  ``batch-<n>.json`` that its ``NeuronpediaDashboardBatch(**content)`` takes.
- Neuronpedia (hijohnnylin/neuronpedia, ``utils/neuronpedia-utils/neuronpedia_utils/db_models``): a folder whose lines
  of JSON are rows of its tables. Names go with it, as explanations. ``creatorId`` must be that of a user there.
"""

import gzip
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Float

from ard.reports.concepts import read_concepts, read_timelines
from ard.results import replacing, write_json
from ard.run import Cell, Run
from ard.types import UserError

Export = Literal["neuronpedia", "saedashboard"]

CONCEPTS_PER_FILE = 128
BATCH = re.compile(r"batch-(\d+)\.json(l\.gz)?")
"""A file of so many concepts, and its number."""
TOP_BIN = -1.0
"""SAEDashboard's mark of a feature's top activations, which are no quantile of it."""
CREATOR = "ard"
DIGITS = 4
EMPTY = (
    "neuron_alignment_indices",
    "neuron_alignment_values",
    "neuron_alignment_l1",
    "correlated_neurons_indices",
    "correlated_neurons_l1",
    "correlated_neurons_pearson",
    "correlated_features_indices",
    "correlated_features_l1",
    "correlated_features_pearson",
    "neg_str",
    "neg_values",
    "pos_str",
    "pos_values",
    "logits_hist_data_bar_heights",
    "logits_hist_data_bar_values",
    "decoder_weights_dist",
    "vector",
)
"""What is said of a feature of text and not of one of sound."""


class Heard(NamedTuple):
    """One clip of a concept: its id, its stretches of time, and the feature's activation in each."""

    clip_id: str
    tokens: list[str]
    values: list[float]

    @property
    def strongest(self) -> int:
        """The first token of the highest activation."""
        return int(np.argmax(self.values))


class Exported(NamedTuple):
    """One concept: its row of the catalogue, its clips, and over all tokens how often it is active and how strongly."""

    row: Mapping[str, Any]
    clips: list[Heard]
    share_active: float
    bar_values: list[float]
    bar_heights: list[float]


def write_export(run: Path, to: Export) -> Path:
    """Write the concepts of a run's own dictionary into ``export/<to>/`` of its folder, and return that folder.

    Raises:
        UserError: if the run has no concepts, or their activations along time are not stored.
    """
    opened = Run.load(run)
    concepts = _exported(opened)
    folder = run / "export" / to
    batches = [concepts[start : start + CONCEPTS_PER_FILE] for start in range(0, len(concepts), CONCEPTS_PER_FILE)]
    writers: Mapping[Export, Callable[[Run, list[list[Exported]], Path], None]] = {
        "saedashboard": _write_saedashboard,
        "neuronpedia": _write_neuronpedia,
    }
    writers[to](opened, batches, folder)
    for path in folder.rglob("batch-*"):
        if (batch := BATCH.fullmatch(path.name)) and int(batch[1]) >= len(batches):
            path.unlink()  # of an export of more concepts
    return folder


def _exported(run: Run) -> list[Exported]:
    cell = run.own
    for file in ("concepts", "timelines"):
        if not cell.path(file).is_file():
            raise UserError(
                f"'{cell.path(file)}' is missing, which an export is made of: run `ard demo` or `ard run` again"
            )
    clips = {row["id"]: row for row in pq.read_table(run.clips).to_pylist()}
    timelines, shares = read_timelines(cell), _activity(cell)
    rows = [row for row in read_concepts(cell) if row["feature"] in timelines]
    if not rows:
        raise UserError(f"'{cell.path('timelines')}' has no concept: every feature of this dictionary is silent")
    return [
        Exported(
            row,
            [
                _heard(clip_id, clips.get(clip_id, {}), values)
                for clip_id, values in zip(row["top_ids"], timelines[row["feature"]], strict=True)
                if len(values)
            ],
            *shares(row["feature"]),
        )
        for row in rows
    ]


def _heard(clip_id: str, clip: Mapping[str, Any], values: Float[np.ndarray, " tokens"]) -> Heard:
    step = clip.get("seconds_per_token") or 1.0
    tokens = [f"{token * step:.2f}s " for token in range(len(values))]
    return Heard(clip_id, tokens, values.astype(float).round(DIGITS).tolist())


def _activity(cell: Cell) -> Callable[[int], tuple[float, list[float], list[float]]]:
    """Return what tells a feature's share of active tokens and its histogram: where bins begin, and their tokens."""
    stored = cell.tensors("representatives") if cell.path("representatives").is_file() else {}
    if "activation_histogram" not in stored:
        return lambda feature: (0.0, [], [])
    counts, edges = stored["activation_histogram"].numpy(), stored["activation_edges"].numpy()
    num_tokens = int(stored["num_tokens"])

    def of(feature: int) -> tuple[float, list[float], list[float]]:
        own = counts[feature]
        used = np.flatnonzero(own)
        if len(used) == 0:
            return 0.0, [], []
        bins = slice(used[0], used[-1] + 1)
        return float(own.sum() / num_tokens), edges[:-1][bins].astype(float).tolist(), own[bins].astype(float).tolist()

    return of


def _write_saedashboard(run: Run, batches: Sequence[Sequence[Exported]], folder: Path) -> None:
    num_clips = pq.read_metadata(run.clips).num_rows
    for number, batch in enumerate(batches):
        content = {
            "model_id": run.model,
            "layer": run.layer,
            "sae_set": _sae_set(run),
            "sae_id_suffix": None,
            "features": [_dashboard(concept, run.data, num_clips) for concept in batch],
        }
        write_json(folder / f"batch-{number}.json", content)


def _dashboard(concept: Exported, dataset: str, num_clips: int) -> dict[str, Any]:
    most = max((max(clip.values) for clip in concept.clips), default=0.0)
    return {
        "feature_index": concept.row["feature"],
        **dict.fromkeys(EMPTY, ()),
        "frac_nonzero": concept.share_active,
        "freq_hist_data_bar_values": concept.bar_values,
        "freq_hist_data_bar_heights": concept.bar_heights,
        "n_prompts_total": num_clips,
        "n_tokens_in_prompt": max((len(clip.tokens) for clip in concept.clips), default=0),
        "dataset": dataset,
        "activations": [
            {
                "bin_min": TOP_BIN,
                "bin_max": most,
                "bin_contains": TOP_BIN,
                "tokens": clip.tokens,
                "values": clip.values,
                "qualifying_token_index": clip.strongest,
            }
            for clip in concept.clips
        ],
    }


def _write_neuronpedia(run: Run, batches: Sequence[Sequence[Exported]], folder: Path) -> None:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    made = {"creatorId": CREATOR, "createdAt": now}
    model, name = run.model, _sae_set(run)
    source = f"{run.layer}-{name}"
    about = f"layer {run.layer} of {model}, expansion {run.expansion}"
    one_line_each: Mapping[str, dict[str, Any]] = {
        "release": {"name": CREATOR, "description": about, "creatorName": CREATOR},
        "model": {"id": model, "instruct": False, "displayName": model, "displayNameShort": model, "updatedAt": now},
        "sourceset": {"modelId": model, "name": name, "description": about, "releaseName": CREATOR},
        "source": {"id": source, "modelId": model, "setName": name, "dataset": run.data},
    }
    for file, row in one_line_each.items():
        _write_lines(folder / f"{file}.jsonl", [row | made])
    for number, batch in enumerate(batches):
        of = {"modelId": model, "layer": source}
        rows: Mapping[str, list[dict[str, Any]]] = {
            "features": [_feature_row(concept) | of | made for concept in batch],
            "activations": [row | of | made for concept in batch for row in _activation_rows(concept, source)],
            "explanations": [
                _explanation_row(concept, source) | of | {"createdAt": now} for concept in batch if concept.row["name"]
            ],
        }
        for table, lines in rows.items():
            _write_lines(folder / table / f"batch-{number}.jsonl.gz", lines)


def _feature_row(concept: Exported) -> dict[str, Any]:
    return {
        "index": str(concept.row["feature"]),
        "maxActApprox": max((max(clip.values) for clip in concept.clips), default=0.0),
        "frac_nonzero": concept.share_active,
        "freq_hist_data_bar_values": concept.bar_values,
        "freq_hist_data_bar_heights": concept.bar_heights,
    }


def _activation_rows(concept: Exported, source: str) -> list[dict[str, Any]]:
    return [
        {
            "id": f"{source}-{concept.row['feature']}-{place}",
            "index": str(concept.row["feature"]),
            "tokens": clip.tokens,
            "values": clip.values,
            "maxValue": max(clip.values),
            "maxValueTokenIndex": clip.strongest,
            "minValue": min(clip.values),
            "dataSource": clip.clip_id,
            **dict.fromkeys(("binMin", "binMax", "binContains")),  # no quantile of the feature
            "qualifyingTokenIndex": clip.strongest,
        }
        for place, clip in enumerate(concept.clips)
    ]


def _explanation_row(concept: Exported, source: str) -> dict[str, Any]:
    fails = "; ".join(concept.row.get("fails") or ())
    return {
        "id": f"{source}-{concept.row['feature']}",
        "index": str(concept.row["feature"]),
        "description": concept.row["name"],
        "authorId": CREATOR,
        "notes": f"this name fails: {fails}" if concept.row.get("passes") is False else None,
    }


def _sae_set(run: Run) -> str:
    return f"ard-e{run.expansion}"


def _write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a line of JSON a row, compressed if the name ends so."""
    text = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows).encode()
    with replacing(path) as partial:
        partial.write_bytes(gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)
