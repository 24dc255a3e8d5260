"""WavCaps: sounds of the web with a caption each (Mei et al. 2024; [21] of the paper, which trains on AudioSet_SL)."""

import ast
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ard.audio.decoding import and_also, decode
from ard.audio.events import between, read_events
from ard.audio.paths import files_under, id_of, printable
from ard.types import Clip, Failure, UserError

Subset = Literal["AudioSet_SL", "BBC_Sound_Effects", "FreeSound", "SoundBible"]
Blacklist = Literal["all_ac", "test_ac", "ub8k_esc50_vggsound"]

_JSON_FILES: Mapping[Subset, str] = {
    "AudioSet_SL": "as_final.json",
    "BBC_Sound_Effects": "bbc_final.json",
    "FreeSound": "fsd_final.json",
    "SoundBible": "sb_final.json",
}
_BLACKLISTED: Mapping[Subset, str] = {"AudioSet_SL": "AudioSet", "FreeSound": "FreeSound"}


class _Row(NamedTuple):
    stem: str
    caption: str | None
    labels: tuple[str, ...]
    note: str | None


class WavCaps:
    """Iterate over one subset of WavCaps, in the order of its JSON file.

    The root is a copy of the hub's ``cvssp/WavCaps`` with the archives unpacked anywhere under it. Audio is sought as
    ``<stem>.flac`` at any depth, but not in folders named after another subset: FreeSound and SoundBible use the same
    numbers. Files that no row names are skipped (SoundBible's archive has more files than rows). A clip's id is the
    stem: ``Y`` and the YouTube id, or the number at its source. Labels are the BBC's categories and the tags of
    FreeSound's uploaders; the other two subsets have none.

    Args:
        root: the folder that holds ``json_files``.
        subset: which of the four; the paper's 108317 clips are AudioSet_SL, unfiltered.
        blacklist: leave out, without a failure, clips that WavCaps lists as also in the test sets of audio captioning
            (``test_ac``), in all of their splits (``all_ac``), or in UrbanSound8K, ESC-50 and VGGSound
            (``ub8k_esc50_vggsound``).
        events: AudioSet's strong labels (``audioset_train_strong.tsv``, with ``mid_to_display_name.tsv`` beside it),
            which say when something is heard in the clips of AudioSet_SL: these are the clips that have such labels.

    Raises:
        UserError: if a JSON file is missing or broken, there is no audio, the blacklist does not cover the subset, or
            the events cannot be read or are of other clips.
    """

    def __init__(
        self,
        root: Path,
        subset: Subset = "AudioSet_SL",
        *,
        blacklist: Blacklist | None = None,
        events: Path | None = None,
    ) -> None:
        if blacklist and subset not in _BLACKLISTED:
            raise UserError(f"blacklist {blacklist!r} names no clips of {subset}: use the subset without a blacklist")
        folder = root / "json_files"
        rows = _load(folder / subset / _JSON_FILES[subset], "data")
        excluded: set[str] = set()
        if blacklist:
            listed = _load(folder / "blacklist" / f"blacklist_exclude_{blacklist}.json", _BLACKLISTED[subset])
            excluded.update(_stem(str(name)) for name in listed)
        self.subset = subset
        listed_rows = [_row(number, listed) for number, listed in enumerate(rows)]
        self._rows = [row for row in listed_rows if isinstance(row, Failure) or row.stem not in excluded]
        self._files, self._errors = _find_audio(root, subset)
        if not self._files:
            raise UserError(f"no .flac file of {subset} is under {str(root)!r}: unpack Zip_files/{subset} there")
        self._events = {} if events is None else read_events(Path(events)).of(self._files)[0]

    def __len__(self) -> int:
        """Count the rows, with and without audio."""
        return len(self._rows)

    def __iter__(self) -> Iterator[Clip | Failure]:
        """Read row by row; a row without a file or without an id is a failure."""
        for error in self._errors:
            yield Failure(printable(str(error.filename)), "audio", f"cannot be read ({error.strerror})")
        for row in self._rows:
            if isinstance(row, Failure):
                yield row
                continue
            stem, caption, labels, problem = row
            clip_id = id_of(stem)
            recording = decode(self._files.get(stem), clip_id)
            if isinstance(recording, Failure):
                yield recording
            else:
                waveform, sample_rate_hz, note = recording
                note = and_also(problem, note) if problem else note
                events = between(self._events.get(stem, ()), 0.0, len(waveform) / sample_rate_hz)
                yield Clip(clip_id, waveform, sample_rate_hz, self.subset, caption, labels, events=events, note=note)


def _load(path: Path, key: str) -> list[Any]:
    """Read one list of a JSON file of WavCaps."""
    if not path.is_file():
        raise UserError(f"WavCaps file {str(path)!r} does not exist: give the folder of cvssp/WavCaps with json_files")
    try:
        return list(json.loads(path.read_text(encoding="utf-8"))[key])
    except (ValueError, KeyError) as error:
        raise UserError(f"WavCaps file {str(path)!r} is not JSON with a list {key!r}: download it again") from error


def _row(number: int, listed: Any) -> _Row | Failure:
    """Return a row; an id may be a number, and a missing caption is noted."""
    stem = listed.get("id") if isinstance(listed, dict) else None
    if isinstance(stem, bool) or not isinstance(stem, str | int) or stem == "":
        return Failure(f"row {number}", "audio", f"it has no id: {str(listed)[:100]}")
    caption = listed.get("caption")
    if not isinstance(caption, str):
        return _Row(_stem(str(stem)), None, _labels(listed), f"its caption is not text but {caption!r}"[:200])
    return _Row(_stem(str(stem)), caption, _labels(listed), None)


def _stem(name: str) -> str:
    """Return an id's file stem: AudioSet's ids end in .wav, though the files are FLAC; no other id has a suffix."""
    return name.removesuffix(".wav")


def _labels(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return FreeSound's list of tags, or the BBC's categories: the literal in a string such as ``"['Nature']"``."""
    labels = row.get("tags", ())
    if "category" in row:
        try:
            labels = ast.literal_eval(row["category"])
        except (ValueError, SyntaxError):
            return ()
    return tuple(map(str, labels)) if isinstance(labels, list | tuple) else ()


def _find_audio(root: Path, subset: Subset) -> tuple[dict[str, Path], list[OSError]]:
    """Return the FLAC files of a subset by stem, and the errors of folders that could not be read."""
    others = tuple(name for name in _JSON_FILES if name != subset)
    paths, errors = files_under(root)
    files: dict[str, Path] = {}
    for path in paths:
        folders = path.relative_to(root).parts[:-1]
        if path.suffix == ".flac" and not any(name.startswith(others) for name in folders):
            files.setdefault(path.stem, path)
    return files, errors
