"""FSD50K: sounds of Freesound, labelled by people (Fonseca et al. 2022; [23] of the paper, which evaluates on eval)."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from ard.audio.decoding import decode
from ard.audio.paths import id_of
from ard.types import Clip, Failure, UserError

Split = Literal["dev", "eval"]
Labels = Literal["smeared", "leaf"]


class FSD50K:
    """Iterate over one split of FSD50K, in the order of its table of labels.

    Smeared labels are the ground truth: 200 classes, each label with all its ancestors in AudioSet's ontology (3.77
    a clip on eval). Leaf labels are the ``collection``: those that the raters gave, before smearing and before rare
    classes were merged into their parents. An ``Owl`` among the leaves may thus be only a ``Bird`` when smeared. Each
    kind has its own vocabulary. A clip's id is its number at Freesound. Labels keep FSD50K's spelling (``Tick-tock``,
    ``Coin_(dropping)``).

    Args:
        root: the folder that holds ``FSD50K.ground_truth``, ``FSD50K.eval_audio`` and so on.
        split: ``eval``, the paper's 10231 clips, or ``dev``.
        labels: ``smeared``, or ``leaf``, which needs ``FSD50K.metadata``.

    Raises:
        UserError: if a folder or table is missing, or a label is not in the vocabulary.
    """

    def __init__(self, root: Path, split: Split = "eval", *, labels: Labels = "smeared") -> None:
        self.split = split
        self._audio = root / f"FSD50K.{split}_audio"
        if labels == "smeared":
            folder, table, vocabulary = "FSD50K.ground_truth", f"{split}.csv", "vocabulary.csv"
        else:
            folder = "FSD50K.metadata/collection"
            table, vocabulary = f"collection_{split}.csv", f"vocabulary_collection_{split}.csv"
        for path in (self._audio, root / folder / table, root / folder / vocabulary):
            if not path.exists():
                raise UserError(f"{str(path)!r} does not exist: give the folder where FSD50K's archives are unpacked")
        self._labels = _read_labels(root / folder / table, root / folder / vocabulary)

    def __len__(self) -> int:
        """Count the labelled clips, with and without audio."""
        return len(self._labels)

    def __iter__(self) -> Iterator[Clip | Failure]:
        """Read clip by clip; one without a file is a failure."""
        for name, labels in self._labels.items():
            recording = decode(self._audio / f"{name}.wav", name)
            if isinstance(recording, Failure):
                yield recording
            else:
                waveform, sample_rate_hz, note = recording
                yield Clip(id_of(name), waveform, sample_rate_hz, f"FSD50K-{self.split}", labels=labels, note=note)


def _read_labels(table: Path, vocabulary: Path) -> dict[str, tuple[str, ...]]:
    """Read the labels of every clip; check them against the vocabulary (rows of index, label, mid; no header)."""
    classes = {row[1] for row in _read_rows(vocabulary, 2)}
    (header, *rows) = _read_rows(table, 2)
    if not {"fname", "labels"} <= set(header) or not rows:
        raise UserError(
            f"{str(table)!r} has no clips, or not the columns 'fname' and 'labels' but {header}: unpack it again"
        )
    name, labels = header.index("fname"), header.index("labels")
    labels_of: dict[str, tuple[str, ...]] = {}
    for number, row in enumerate(rows, 2):
        if len(row) != len(header) or row[name] in labels_of:
            raise UserError(f"row {number} of {str(table)!r} is malformed or repeats a clip ({row}): unpack it again")
        labels_of[row[name]] = tuple(filter(None, row[labels].split(",")))
        if unknown := set(labels_of[row[name]]) - classes:
            raise UserError(
                f"clip {row[name]} of {str(table)!r} has the label {min(unknown)!r}, which is not in "
                f"{str(vocabulary)!r}: take both from one release"
            )
    return labels_of


def _read_rows(path: Path, num_columns: int) -> list[list[str]]:
    """Read the rows of a CSV file that are not empty."""
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            rows = [row for row in csv.reader(lines) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{str(path)!r} is not a table of FSD50K ({error}): unpack it again") from error
    if not rows or min(map(len, rows)) < num_columns:
        raise UserError(f"{str(path)!r} is empty, or has rows of fewer than {num_columns} columns: unpack it again")
    return rows
