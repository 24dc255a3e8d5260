"""Labels of the user's own sounds: from a table of files and labels to the labels of each file."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from ard.audio.paths import printable
from ard.audio.tables import first_column, fit_names, read_csv
from ard.types import Clip, UserError

FILE_COLUMNS = ("file", "fname", "filename", "path", "id", "name")
LABEL_COLUMNS = ("labels", "label")
GROUP_COLUMNS = ("group", "speaker", "source")
SEPARATORS = "|;,"  # of the labels in a cell


class Annotation(NamedTuple):
    """What a table says of a file: its labels, and the group of files that it belongs to, such as its speaker's."""

    labels: tuple[str, ...] = ()
    group: str | None = None


class Labels(NamedTuple):
    """A table of labels: its path, and what it says of each file, under the name that it gives the file."""

    path: Path
    annotations: Mapping[str, Annotation]

    def of(self, files: Iterable[str]) -> tuple[dict[str, Annotation], list[str]]:
        """Return what the table says of files, and the names in the table that fit none of them.

        A name fits a file whose path it is; if there is none, a file whose path without suffix, name, or name without
        suffix it is. Rows that fit one file under different names add up. Files without a row are left out.

        Args:
            files: paths below the folder of sounds, with ``/``.

        Raises:
            UserError: if a name fits several files, two rows give a file different groups, or no name fits any file.
        """
        fitting, unfitting = fit_names(self.annotations, files, "labels", self.path)
        annotations: dict[str, Annotation] = {}
        for name, file in fitting.items():
            _add(annotations, file, self.annotations[name], self.path)
        return annotations, unfitting


def read_labels(path: Path, label_column: str | None = None) -> Labels:
    """Read a table of labels: a CSV file in UTF-8 with a header, such as FSD50K's ``eval.csv``, or a parquet file.

    Its columns: the file (the first there is of :data:`FILE_COLUMNS`), the labels (:data:`LABEL_COLUMNS`) and, if some
    files belong together, their group (:data:`GROUP_COLUMNS`); others are ignored. The rows of a file add up. A CSV
    file's columns are divided by commas, semicolons or tabs. The labels in a cell are divided by ``|`` if any cell has
    one, else by ``;`` if any has one, else by commas: so names with commas, as AudioSet's, can be kept whole. A parquet
    column may also hold lists of labels, which are taken as they are.

    Args:
        path: the file; its content tells its format.
        label_column: the column of the labels, if it has another name.

    Raises:
        UserError: if the file cannot be read, lacks a column, has no rows or malformed ones, or gives a file two
            groups.
    """
    try:
        with path.open("rb") as file:
            is_parquet = file.read(4) == b"PAR1"
        rows = list(_parquet_rows(path, label_column) if is_parquet else _csv_rows(path, label_column))
    except OSError as error:
        reason = "do not exist" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise UserError(f"labels {str(path)!r} {reason}: give a CSV or parquet file of files and labels") from error
    if not rows:
        raise UserError(f"labels {str(path)!r} have no rows: give a row for each file")
    cells = [cell for _, cell, _ in rows if isinstance(cell, str)]
    separator = next(one for one in SEPARATORS if one == SEPARATORS[-1] or any(one in cell for cell in cells))
    annotations: dict[str, Annotation] = {}
    for number, (name, cell, group) in enumerate(rows, 1):
        if not _text(name):
            raise UserError(f"row {number} of the labels {str(path)!r} names no file: name it, or delete the row")
        labels = cell.split(separator) if isinstance(cell, str) else cell if isinstance(cell, list) else [cell]
        texts = tuple(filter(None, map(_text, labels)))
        _add(annotations, _text(name), Annotation(texts, _text(group) or None), path)
    return Labels(path, annotations)


def held_out(clip: Clip | str, share: float, seed: int) -> bool:
    """Return whether a clip belongs to the share that is held out: all clips of a group do, or none.

    Only the seed and a hash of the clip's group decide, or of its id if it has no group.

    Args:
        clip: the clip, or what is hashed.
        share: the expected share of the groups that are held out, from 0 to 1.
        seed: another seed, another draw.
    """
    key = clip if isinstance(clip, str) else clip.group or clip.id
    return xxhash.xxh3_64_intdigest(f"{seed}/{key}".encode(errors="backslashreplace")) < share * 2**64


class _Columns(NamedTuple):
    file: str
    labels: str
    group: str | None


def _columns(header: Sequence[str], label_column: str | None, path: Path) -> _Columns:
    """Choose among the columns of a table."""
    file = first_column(header, FILE_COLUMNS)
    labels = first_column(header, (label_column,) if label_column else LABEL_COLUMNS)
    if file is None:
        raise UserError(
            f"labels {str(path)!r} have no column of files, only {', '.join(map(repr, header))}: name it one of "
            f"{', '.join(FILE_COLUMNS)}"
        )
    if labels is None:
        raise UserError(
            f"labels {str(path)!r} have no column {repr(label_column) if label_column else 'of labels'}, only "
            f"{', '.join(map(repr, header))}: name it {' or '.join(LABEL_COLUMNS)}, or give its name as label_column"
        )
    return _Columns(file, labels, first_column(header, GROUP_COLUMNS))


def _csv_rows(path: Path, label_column: str | None) -> Iterator[tuple[Any, Any, Any]]:
    """Read file, labels and group of every row that is not empty."""
    header, rows = read_csv(path, "labels")
    if header:
        chosen = [None if name is None else header.index(name) for name in _columns(header, label_column, path)]
        for _, cells in rows:
            file, labels, group = (None if place is None else cells[place] for place in chosen)
            yield file, labels, group


def _parquet_rows(path: Path, label_column: str | None) -> Iterator[tuple[Any, Any, Any]]:
    """Read file, labels and group of every row."""
    try:
        with pq.ParquetFile(path) as table:
            chosen = _columns(table.schema_arrow.names, label_column, path)
            columns = table.read(columns=[name for name in chosen if name is not None]).to_pydict()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:100]
        raise UserError(f"labels {str(path)!r} are a damaged parquet file ({reason}): make it again") from error
    none = [None] * len(columns[chosen.file])
    yield from zip(*(none if name is None else columns[name] for name in chosen), strict=True)


def _add(annotations: dict[str, Annotation], file: str, more: Annotation, path: Path) -> None:
    """Add a row to those of its file."""
    labels, group = annotations.get(file, Annotation())
    if group and more.group and group != more.group:
        raise UserError(
            f"labels {str(path)!r} put {printable(file)!r} in two groups, {group!r} and {more.group!r}: give it one"
        )
    annotations[file] = Annotation(tuple(dict.fromkeys(labels + more.labels)), group or more.group)


def _text(cell: Any) -> str:
    return "" if cell is None else str(cell).strip()
