"""Tables about the user's own sounds: their rows and columns, and which file each row is about."""

import csv
import io
import posixpath
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from ard.audio.paths import printable
from ard.types import UserError

DELIMITERS = ",;\t"  # of a CSV file's columns


def read_csv(path: Path, kind: str) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """Return the header of a CSV file in UTF-8 and its rows: the number of the line, and a cell for each column.

    Its columns are divided by commas, semicolons or tabs. Empty rows are left out; short ones are filled up. The header
    of an empty file is empty.

    Args:
        path: the file.
        kind: what a message calls it, in the plural.

    Raises:
        UserError: if it is not such a file, or a row has more cells than the header; it may come with a later row.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{kind} {str(path)!r} are not UTF-8 text ({error.reason} at byte {error.start}): save them as UTF-8"
        ) from error
    rows = _rows(text, path, kind)
    _, header = next(rows, (0, []))
    return header, _filled(rows, len(header), path, kind)


def _rows(text: str, path: Path, kind: str) -> Iterator[tuple[int, list[str]]]:
    top = text.lstrip().partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(DELIMITERS, key=top.count), strict=True)
    try:
        yield from ((reader.line_num, row) for row in reader if any(map(str.strip, row)))
    except csv.Error as error:
        raise UserError(
            f"line {reader.line_num} of the {kind} {str(path)!r} is not CSV ({error}): correct it"
        ) from error


def _filled(
    rows: Iterator[tuple[int, list[str]]], width: int, path: Path, kind: str
) -> Iterator[tuple[int, list[str]]]:
    for line, row in rows:
        if len(row) > width:
            raise UserError(
                f"line {line} of the {kind} {str(path)!r} has {len(row)} cells, more than the {width} of the header: "
                "put cells that contain the delimiter in double quotes"
            )
        yield line, row + [""] * (width - len(row))


def first_column(header: Sequence[str], names: Iterable[str]) -> str | None:
    """Return the column with the first of these names that there is, in any case; None if there is none."""
    columns = {column.strip().casefold(): column for column in reversed(header)}
    return next((columns[name.casefold()] for name in names if name.casefold() in columns), None)


def fit_names(names: Collection[str], files: Iterable[str], kind: str, path: Path) -> tuple[dict[str, str], list[str]]:
    """Return the file that each name in a table fits, and the names that fit none.

    A name fits a file whose path it is; if there is none, a file whose path without suffix, name, or name without
    suffix it is.

    Args:
        names: the names in the table.
        files: paths below the folder of sounds, with ``/``.
        kind: what a message calls the table, in the plural.
        path: the table.

    Raises:
        UserError: if a name fits several files, or no name fits any file.
    """
    files = list(files)
    exact = {_normal(file): file for file in files}
    loose = defaultdict(set)
    for file in files:
        below = PurePosixPath(_normal(file))
        for name in (str(below.with_suffix("")), below.name, below.stem):
            loose[name].add(file)
    fitting: dict[str, str] = {}
    for name in names:
        key = _normal(name)
        candidates = sorted({exact[key]} if key in exact else loose.get(key, ()))
        if len(candidates) > 1:
            raise UserError(
                f"{name!r} in the {kind} {str(path)!r} fits {len(candidates)} files ('{printable(candidates[0])}', "
                f"'{printable(candidates[1])}'): give their paths below the folder, with suffix"
            )
        if candidates:
            fitting[name] = candidates[0]
    unfitting = [name for name in names if name not in fitting]
    if not fitting:
        raise UserError(
            f"none of the {len(names)} files in the {kind} {str(path)!r} (the first is {unfitting[0]!r}) is among the "
            f"{len(files)} of the folder: give their paths below it, or their names"
        )
    return fitting, unfitting


def _normal(name: str) -> str:
    """Return a path in one spelling: macOS writes accents as characters of their own."""
    return unicodedata.normalize("NFC", posixpath.normpath(name))
