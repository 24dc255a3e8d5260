"""The concepts of a run as the report's page searches, sorts, filters and colours them: a script with plain data."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ard.reports.atlas import Atlas
from ard.reports.concepts import finite
from ard.reports.sounds import Shown
from ard.reports.strips import spaced


class Column(NamedTuple):
    """A number that concepts have: its key, its name, what it means, and the digits after the point to show."""

    key: str
    name: str
    meaning: str
    digits: int = 2


COLUMNS = (
    Column("m", "monosemanticity m", "how much more alike its most representative clips are than its least"),
    Column("score", "score of its name", "the four axes of its name in one figure"),
    Column("responsiveness", "responsiveness", "AUROC of its activity for the clips in which its name is true"),
    Column("purity", "purity", "in what share of the clips where it fires its name is true"),
    Column("sensitivity", "sensitivity", "in what share of the clips made for its name it fires"),
    Column("intruder", "intruder", "AUROC of its activity for its name’s clips among those of the nearest names"),
    Column("detection", "detection", "AUROC: how well its name predicts in which unseen clips it fires; .5 is chance"),
    Column("event_auroc", "in time", "AUROC: how well it tells when a sound is heard, not only in which clips"),
    Column("modality", "reads 0, hears 1", "whether it is active on the words for a sound or on the sound"),
    Column("agreement", "agreement", "share of the captions that agree on its name"),
    Column("clap", "name and clips", "cosine of its name and its clips in CLAP’s space"),
    Column("n_active", "active clips", "in how many probing clips it is active", 0),
)


def columns_of(rows: Sequence[Mapping[str, Any]]) -> list[Column]:
    """Return the columns of which some concept has a value, the effects on each task last."""
    tasks = sorted({key for row in rows for key in row if key.startswith("effect ")})
    effects = (Column(key, f"effect, {key.removeprefix('effect ')}", "nats per unit of change", 3) for key in tasks)
    return [c for c in (*COLUMNS, *effects) if any(finite(row.get(c.key)) is not None for row in rows)]


def listing(
    rows: Sequence[Mapping[str, Any]],
    clips: Mapping[str, Mapping[str, Any]],
    sounds: Mapping[str, Shown],
    places: Atlas | None,
    num_clips: int,
) -> str:
    """Return a script that puts the concepts, in the given order, into ``ARD.concepts``, column by column."""
    columns = columns_of(rows)
    best = [next((sounds[clip_id] for clip_id in row["top_ids"] or () if clip_id in sounds), None) for row in rows]
    content: dict[str, Any] = {
        "num_clips": num_clips,
        "columns": [column._asdict() for column in columns],
        "values": {c.key: [_rounded(row.get(c.key), c.digits + 1) for row in rows] for c in columns},
        "feature": [row["feature"] for row in rows],
        "layer": [row["layer"] for row in rows],
        "name": [row["name"] for row in rows],
        "passes": [row.get("passes") for row in rows],
        "fails": ["; ".join(row.get("fails") or ()) for row in rows],
        "words": [_words(row, clips) for row in rows],
        "audio": [shown and shown.file for shown in best],
        "spectrogram": [shown and shown.spectrogram for shown in best],
    }
    if places is not None:
        content["places"] = [places.places.get(row["feature"]) for row in rows]
    return f"ARD.concepts = {script_json(content)};\n"


def script_json(content: Any) -> str:
    """Return JSON that is safe within a script: nothing in it ends the script or a line of it."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _words(row: Mapping[str, Any], clips: Mapping[str, Mapping[str, Any]]) -> str:
    """Return what a search finds a concept by, beside its name: not the words of its least representative clips.

    A search for a dog must not find every feature that is silent on dogs.
    """
    of_clips = (clips.get(clip_id, {}) for clip_id in row["top_ids"] or ())
    known = [text for clip in of_clips for text in (clip.get("caption"), *map(spaced, clip.get("labels") or ()))]
    texts: Iterable[str | None] = (*(row["captions"] or ()), *(row["candidates"] or ()), *known)
    return "\n".join(dict.fromkeys(text for text in texts if text))


def _rounded(value: float | int | None, digits: int) -> float | None:
    number = finite(value)
    return None if number is None else round(number, digits)
