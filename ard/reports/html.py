"""The concept report: one static HTML page of a run, which works offline and from ``file://``."""

import json
import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import pyarrow.parquet as pq
from torch import Tensor

from ard.reports.concepts import read_concepts
from ard.reports.doses import dose_drawings
from ard.reports.draws import draw_drawings
from ard.reports.effects import effect_drawings
from ard.reports.headline import headline
from ard.reports.layers import layer_drawings
from ard.reports.notes import diagnoses
from ard.reports.sounds import HEIGHT, NUM_BARS, Sound, copy_sounds, remove_sounds
from ard.reports.table import interval_text, paper_text, value_text
from ard.reports.tables import build_tables
from ard.results import Figure, git_commit, write_text
from ard.run import Cell, Run

NUM_SHOWN = 200
"""A page with more concepts than this is slow to open; the rest are in concepts.parquet."""

EVALUATIONS = ("matching", "monosemanticity", "steering", "label_auroc")


class Activity(NamedTuple):
    """Where in a clip a feature is active: start, end, and the middle of its strongest token, as shares of the clip."""

    start: float
    end: float
    strongest: float


class ClipCard(NamedTuple):
    """One clip of a concept: the AudioLLM's ``caption``, and the caption or labels of its corpus (``reference``)."""

    id: str
    caption: str | None
    reference: str | None
    duration_s: float | None
    sound: Sound | None
    activity: Activity | None


class ConceptCard(NamedTuple):
    """One concept: its numbers (None where there are none) and its most and least representative clips, best first.

    ``support`` says what supports each phrase of the name, and ``made_from`` what the name was made from. ``hears`` are
    the classes that its activity tells, and ``speaks`` those that answers turn to when it is set.
    """

    feature: int
    layer: int
    name: str | None
    m: float | None
    n_active: int
    agreement: float | None
    clap: float | None
    detection: float | None
    hears: list[str]
    speaks: list[str]
    candidates: list[str]
    made_from: str | None
    support: list[str]
    top: list[ClipCard]
    bottom: list[ClipCard]


def write_report(run: Path) -> Path:
    """Write ``report/index.html`` of a run's folder, with the audio of the clips it shows, and return its path.

    Raises :class:`ard.types.UserError` if the folder is not a run's. The page says whatever else is missing.
    """
    opened = Run.load(run)
    features = read_concepts(opened.own) if opened.own.path("concepts").is_file() else []
    clips = {str(row["id"]): row for row in (pq.read_table(opened.clips).to_pylist() if opened.clips.is_file() else ())}
    selected = sorted((row for row in features if row["selected"]), key=_best_first)
    shown = selected[:NUM_SHOWN]
    wanted = dict.fromkeys(
        clip_id for row in shown for side in ("top_ids", "bottom_ids") for clip_id in row[side] or ()
    )
    places = _places(opened.own)
    sounds_folder = opened.report.parent / "audio"
    sounds = copy_sounds(opened.audio_splits, wanted, sounds_folder)
    page = (
        _environment()
        .get_template("report.html")
        .render(
            run=opened,
            model=Path(opened.model).name if Path(opened.model).is_absolute() else opened.model,
            written=datetime.now(UTC),
            version=version("ard-audio"),
            commit=git_commit(),
            tables=build_tables(run),
            doses={drawing.task: drawing for drawing in dose_drawings(opened)},
            layers={drawing.task: drawing for drawing in layer_drawings(opened)},
            draws=draw_drawings(opened),
            diagnoses=diagnoses(opened.results("steering", [opened.layer], [opened.expansion])),
            scatters=effect_drawings(opened),
            shown={row["feature"] for row in shown},
            concepts=[_concept(row, clips, sounds, places) for row in shown],
            clips=clips,
            places=places,
            num_features=len(features),
            num_dead=sum(row["n_active"] == 0 for row in features),
            num_selected=len(selected),
            num_named=sum(row["name"] is not None for row in selected),
            has_m=any(_number(row["m"]) is not None for row in selected),
            has_captions=any(row["captions"] for row in shown),
            headline=headline(opened),
            waveforms=sounds.values(),
            bars=NUM_BARS,
            height=HEIGHT,
            truth=_truth(opened),
            failures=_failures(opened),
            choices=_choices(opened),
        )
    )
    write_text(opened.report, page)
    remove_sounds(sounds_folder, {sound.file for sound in sounds.values()})
    return opened.report


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ard.reports", "template"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"value": value_text, "interval": interval_text, "paper": paper_text, "fixed": _fixed}
    return environment


def _fixed(number: float | None, digits: int = 2) -> str:
    return "–" if number is None else f"{number:.{digits}f}"


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _best_first(row: Mapping[str, Any]) -> tuple[bool, float, bool, int]:
    """Sort features by m; where clips have no embedding, and so no feature has an m, those with a name come first."""
    m = _number(row["m"])
    return m is None, -(m or 0.0), row["name"] is None, row["feature"]


def _spaced(label: str) -> str:
    """Return a label in words: corpora join them by underscores, so that a browser breaks them anywhere."""
    return label.replace("_", " ")


def _places(cell: Cell) -> Mapping[str, Tensor]:
    """Read where features are active in their most representative clips, by token: [features, p] each."""
    stored = cell.tensors("representatives") if cell.path("representatives").is_file() else {}
    return {name: stored[f"ard/top_{name}"] for name in ("first", "last", "strongest") if f"ard/top_{name}" in stored}


def _activity(clip: Mapping[str, Any], first: int, last: int, strongest: int) -> Activity | None:
    """Turn tokens into shares of a clip's duration; None if the feature is silent or the clip's times are unknown."""
    seconds_per_token, duration_s = (_number(clip.get(key)) for key in ("seconds_per_token", "duration_s"))
    if first < 0 or not seconds_per_token or not duration_s:
        return None
    token = seconds_per_token / duration_s
    return Activity(first * token, min((last + 1) * token, 1.0), min((strongest + 0.5) * token, 1.0))


def _concept(
    row: Mapping[str, Any], clips: Mapping[str, Any], sounds: Mapping[str, Sound], places: Mapping[str, Tensor]
) -> ConceptCard:
    top, bottom, captions = row["top_ids"] or [], row["bottom_ids"] or [], row["captions"] or []
    padded = [*captions, *[None] * len(top)]
    activities: list[Activity | None] = [None] * len(top)
    if places:
        tokens = zip(*(places[name][row["feature"]].tolist() for name in ("first", "last", "strongest")), strict=True)
        activities = [_activity(clips.get(i, {}), *of_clip) for i, of_clip in zip(top, tokens, strict=False)]
    return ConceptCard(
        feature=row["feature"],
        layer=row["layer"],
        name=row["name"],
        m=_number(row["m"]),
        n_active=row["n_active"],
        agreement=_number(row["agreement"]),
        clap=_number(row["clap"]),
        detection=_number(row.get("detection")),
        hears=row.get("hears", []),
        speaks=row.get("speaks", []),
        candidates=row["candidates"] or [],
        made_from=row.get("made_from"),
        support=row.get("support") or [],
        top=[
            _clip(clip_id, caption, clips, sounds, where)
            for clip_id, caption, where in zip(top, padded, activities, strict=False)
        ],
        bottom=[_clip(clip_id, None, clips, sounds, None) for clip_id in bottom],
    )


def _clip(
    clip_id: str,
    caption: str | None,
    clips: Mapping[str, Any],
    sounds: Mapping[str, Sound],
    activity: Activity | None,
) -> ClipCard:
    row = clips.get(clip_id, {})
    reference = row.get("caption") or ", ".join(map(_spaced, row.get("labels") or ())) or None
    return ClipCard(clip_id, caption, reference, _number(row.get("duration_s")), sounds.get(clip_id), activity)


class Truth(NamedTuple):
    """How well single features detect the labels: figures over all labels, and each label's best feature and AUROC."""

    figures: list[tuple[str, Figure]]
    labels: list[tuple[str, float | None, int | None]]


def _truth(run: Run) -> Truth | None:
    results = run.results("label_auroc", [run.layer], [run.expansion])
    rows = [(result, row) for result in results for row in result.rows if row.expansion is not None]
    if not rows:
        return None
    result, row = rows[0]
    per_label = result.details.get("per_label", {})
    labels = [(_spaced(label), _number(best.get("auroc")), best.get("feature")) for label, best in per_label.items()]
    return Truth(
        figures=[(name.replace("_", " "), figure) for name, figure in row.figures.items()],
        labels=sorted(labels, key=lambda label: (-(label[1] or 0.0), label[0])),
    )


def _failures(run: Run) -> list[Mapping[str, str]]:
    return json.loads(run.failures.read_text(encoding="utf-8"))["failures"] if run.failures.is_file() else []


def _choices(run: Run) -> Iterable[tuple[str, Mapping[str, Any]]]:
    for evaluation in EVALUATIONS:
        for result in run.results(evaluation, [run.layer], [run.expansion])[-1:]:
            yield evaluation.replace("_", " "), result.choices
