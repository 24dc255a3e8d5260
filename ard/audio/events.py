"""When something is heard in the user's own sounds: from tables and TextGrids to the events of each file."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from ard.audio.paths import files_under
from ard.audio.tables import first_column, fit_names, read_csv
from ard.types import Event, UserError

FILE_COLUMNS = ("filename", "segment_id", "file", "fname", "path", "id", "name")
ONSET_COLUMNS = ("onset_s", "onset", "start_time_seconds", "start")
OFFSET_COLUMNS = ("offset_s", "offset", "end_time_seconds", "end")
LABEL_COLUMNS = ("event_label", "label")
NAMES_FILE = "mid_to_display_name.tsv"
TEXTGRID = ".textgrid"  # whatever its case
SILENCES = frozenset({"", "sil", "sp", "<eps>", "<p:>"})
"""Marks of Montreal Forced Aligner and its kin where nothing is said."""

_SEGMENT = re.compile(r"(?P<video>[\w-]{11})_\d+")  # an AudioSet segment: the video, and its start in ms
_MACHINE_ID = re.compile(r"/[mgt]/\S+")
_PARTS = re.compile(r'"(?P<text>(?:[^"]|"")*)"|<\w+>|(?<!\S)(?P<number>[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)(?!\S)')
_TIERS = {"words": "word", "phones": "phone"}


class Events(NamedTuple):
    """A table or folder of events: its path, and the events of each sound, under the name that it gives the sound."""

    path: Path
    of_names: Mapping[str, tuple[Event, ...]]

    def of(self, files: Iterable[str]) -> tuple[dict[str, tuple[Event, ...]], list[str]]:
        """Return the events of files, and the names that fit none of them.

        A name fits a file as in a table of labels (:func:`~ard.audio.tables.fit_names`). An AudioSet segment also fits
        the file that is named after its video, with or without the ``Y`` that several corpora put before it.

        Args:
            files: paths below the folder of sounds, with ``/``.

        Raises:
            UserError: if a name fits several files, or no name fits any file.
        """
        files = list(files)
        stems = {Path(file).stem for file in files}
        spelled = {name: _spelling(name, stems) for name in self.of_names}
        fitting, unfitting = fit_names(dict.fromkeys(spelled.values()), files, "events", self.path)
        events: dict[str, tuple[Event, ...]] = {}
        for name, own in self.of_names.items():
            if file := fitting.get(spelled[name]):
                events[file] = tuple(sorted({*events.get(file, ()), *own}))
        return events, unfitting


def _spelling(name: str, stems: set[str]) -> str:
    """Return a segment's name as the files spell it; any other name as it is."""
    segment = _SEGMENT.fullmatch(name)
    spellings = (segment["video"], f"Y{segment['video']}") if segment and name not in stems else ()
    return next((spelling for spelling in spellings if spelling in stems), name)


def between(events: Iterable[Event], start_s: float, end_s: float) -> tuple[Event, ...]:
    """Return what is heard of events in a piece of a clip, by the piece's own time."""
    return tuple(
        Event(max(onset_s, start_s) - start_s, min(offset_s, end_s) - start_s, label)
        for onset_s, offset_s, label in events
        if onset_s < end_s and offset_s > start_s
    )


def read_events(path: Path) -> Events:
    """Read the events of many sounds, from one of the layouts in which corpora have them.

    - A table, CSV or TSV in UTF-8 with a header: the file, onset and offset in seconds, and the label, under the names
      of DESED (``filename onset offset event_label``), of AudioSet's strong labels (``segment_id start_time_seconds
      end_time_seconds label``) or those of :class:`~ard.types.Event`. Where labels are AudioSet's machine ids, their
      names are read from ``mid_to_display_name.tsv`` in the same folder. A row with no times and no label says that
      nothing is heard, as in DESED.
    - A folder of ``.TextGrid`` files at any depth, or one of them, as Montreal Forced Aligner writes them, each named
      after its sound. An interval of the tier ``words`` is the event ``word <text>``, one of ``phones`` is ``phone
      <text>``, and of any other tier its text; silence is none. Both of Praat's text formats are read.

    Args:
        path: the file or folder.

    Raises:
        UserError: if it cannot be read, lacks a column, or holds a row or an interval that is none.
    """
    try:
        if path.is_dir():
            grids = [grid for grid in files_under(path)[0] if grid.suffix.lower() == TEXTGRID]
            if not grids:
                raise UserError(f"no .TextGrid file is under the events {str(path)!r}: give their folder, or a table")
            below = {grid.relative_to(path).with_suffix("").as_posix(): grid for grid in grids}
            return Events(path, {name: read_textgrid(grid) for name, grid in below.items()})
        if path.suffix.lower() == TEXTGRID:
            return Events(path, {path.stem: read_textgrid(path)})
        return Events(path, _read_table(path))
    except OSError as error:
        reason = "do not exist" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise UserError(f"events {str(path)!r} {reason}: give a table of events, or a folder of TextGrids") from error


def _read_table(path: Path) -> dict[str, tuple[Event, ...]]:
    header, rows = read_csv(path, "events")
    wanted = {"file": FILE_COLUMNS, "onset": ONSET_COLUMNS, "offset": OFFSET_COLUMNS, "label": LABEL_COLUMNS}
    columns = {what: first_column(header, names) for what, names in wanted.items()}
    for what, column in columns.items():
        if column is None:
            raise UserError(
                f"events {str(path)!r} have no column of the {what}, only {', '.join(map(repr, header))}: name it one "
                f"of {', '.join(wanted[what])}"
            )
    places = [header.index(column) for column in columns.values() if column is not None]
    events: dict[str, list[Event]] = {}
    for line, row in rows:
        name, *cells = (row[place].strip() for place in places)
        if not name:
            raise UserError(f"line {line} of the events {str(path)!r} names no file: name it, or delete the line")
        own = events.setdefault(name, [])
        if any(cells):
            own.append(_event(*cells, where=f"line {line} of the events {str(path)!r}"))
    if not events:
        raise UserError(f"events {str(path)!r} have no rows: give a row for each event")
    names = _display_names(path, {event.label for own in events.values() for event in own})
    return {
        name: tuple(event._replace(label=names.get(event.label, event.label)) for event in own)
        for name, own in events.items()
    }


def _event(onset: str, offset: str, label: str, *, where: str) -> Event:
    try:
        onset_s, offset_s = float(onset), float(offset)
    except ValueError:
        onset_s = offset_s = math.nan
    if not 0 <= onset_s <= offset_s < math.inf or not label:
        raise UserError(f"{where} has onset {onset!r}, offset {offset!r} and label {label!r}: give seconds and a label")
    return Event(onset_s, offset_s, label)


def _display_names(path: Path, labels: set[str]) -> dict[str, str]:
    """Return the names of machine ids, if the labels are such."""
    ids = {label for label in labels if _MACHINE_ID.fullmatch(label)}
    if not ids:
        return {}
    beside = path.with_name(NAMES_FILE)
    if not beside.is_file():
        raise UserError(
            f"the labels of the events {str(path)!r} are machine ids such as {min(ids)!r}, and {NAMES_FILE} is not "
            "beside them: put it there"
        )
    header, rows = read_csv(beside, "names")
    names = {row[0]: row[1] for row in [header, *(row for _, row in rows)] if len(row) > 1}
    if missing := ids - names.keys():
        raise UserError(f"{str(beside)!r} has no name for {min(missing)!r}: take both files from one release")
    return names


def read_textgrid(path: Path) -> tuple[Event, ...]:
    """Read the intervals of a TextGrid that hold text, in either of Praat's text formats.

    Both are the same sequence of numbers, quoted texts and flags; all else in the longer one explains them (Praat's
    manual, "TextGrid file formats").

    Raises:
        UserError: if it is no whole TextGrid, or an interval ends before it begins.
    """
    parts = _parts(path)
    try:
        if [_text(parts), _text(parts)] != ["ooTextFile", "TextGrid"]:
            raise TypeError
        for _ in range(2):  # from when to when
            _number(parts)
        return tuple(sorted(event for _ in range(int(_number(parts))) for event in _tier(parts, path)))
    except (TypeError, OverflowError) as error:  # of a number of tiers that is infinite
        raise UserError(f"{str(path)!r} is not a whole TextGrid in a text format: save it again from Praat") from error


def _parts(path: Path) -> Iterator[str | float]:
    """Yield the texts and numbers of a TextGrid."""
    content = path.read_bytes()
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    for part in _PARTS.finditer(content.decode(encoding, errors="replace")):
        if part["text"] is not None:
            yield part["text"].replace('""', '"')
        elif part["number"] is not None:
            yield float(part["number"])


def _tier(parts: Iterator[str | float], path: Path) -> list[Event]:
    """Read one tier; one of points has no intervals."""
    kind, name = _text(parts), _text(parts)
    for _ in range(2):
        _number(parts)
    prefix = _TIERS.get(name.rpartition(" - ")[2])  # after the speaker, where there are several
    events = []
    for _ in range(int(_number(parts))):
        times = [_number(parts) for _ in range(2 if kind == "IntervalTier" else 1)]
        text = _text(parts).strip()
        if kind == "IntervalTier" and text not in SILENCES:
            onset, offset = map(str, times)
            label = f"{prefix} {text}" if prefix else text
            events.append(_event(onset, offset, label, where=f"tier {name!r} of {str(path)!r}"))
    return events


def _number(parts: Iterator[str | float]) -> float:
    if not isinstance(part := next(parts, None), float):
        raise TypeError
    return part


def _text(parts: Iterator[str | float]) -> str:
    if not isinstance(part := next(parts, None), str):
        raise TypeError
    return part
