"""Pairs of a sound and words that contradict it, from a table."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ard.audio.tables import read_csv
from ard.types import UserError

COLUMNS = {
    "id": ("id", "stimulus_id"),
    "audio": ("audio", "audio_path"),
    "says": ("says", "ref_text"),
    "contradicts": ("contradicts", "conflict_text"),
}
"""Names of a table's columns: a plain one's, then those in ``stimuli.jsonl`` of ALME (arXiv 2602.11488), as its own
evaluation reads them; ALME's paths are below the folder of Common Voice."""


class Conflict(NamedTuple):
    """A sound, words that fit it, and words that contradict it."""

    id: str
    audio: Path
    says: str
    contradicts: str


def read_conflicts(table: Path, root: Path | None = None) -> list[Conflict]:
    """Read pairs from a CSV file in UTF-8 with a header, or from one JSON object a line, as in ALME.

    Its columns are ``audio``, ``says``, ``contradicts`` and, if there is one, ``id``, or ALME's (:data:`COLUMNS`);
    others are ignored. Without an id, a row's path is its id.

    Args:
        table: the file; it is CSV if its name ends so.
        root: the folder that its paths are below; by default the table's own.

    Raises:
        UserError: if the file cannot be read, has no rows, or a row lacks a column or is malformed.
    """
    try:
        rows = _csv_rows(table) if table.suffix == ".csv" else _json_lines(table.read_text(encoding="utf-8-sig"), table)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"pairs {str(table)!r} cannot be read ({error}): give a CSV file or JSON lines in UTF-8"
        ) from error
    folder = table.parent if root is None else root
    conflicts = []
    for line, row in rows:
        found = {name: next((row[key] for key in keys if row.get(key)), None) for name, keys in COLUMNS.items()}
        if lacking := [name for name, value in found.items() if name != "id" and not isinstance(value, str)]:
            raise UserError(
                f"line {line} of the pairs {str(table)!r} has no {lacking[0]!r}: give each row audio, says and "
                "contradicts, or ALME's audio_path, ref_text and conflict_text"
            )
        audio = str(found["audio"])
        conflicts.append(
            Conflict(str(found["id"] or audio), folder / audio, str(found["says"]), str(found["contradicts"]))
        )
    if not conflicts:
        raise UserError(f"pairs {str(table)!r} have no rows: give a row for each pair")
    return conflicts


def _csv_rows(table: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    header, rows = read_csv(table, "pairs")
    return ((line, dict(zip(header, cells, strict=True))) for line, cells in rows)


def _json_lines(text: str, table: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise UserError(f"line {line} of the pairs {str(table)!r} is no JSON object: correct it, or give CSV")
        yield line, row
