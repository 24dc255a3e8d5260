"""IEMOCAP: ten actors in dialogues, every utterance rated for its emotion (Busso et al. 2008; [22] of the paper)."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from ard.audio.decoding import and_also, decode
from ard.audio.paths import id_of
from ard.types import Clip, Failure, UserError

EMOTIONS: Mapping[str, str | None] = {
    "ang": "angry",
    "hap": "happy",
    "exc": "excited",
    "sad": "sad",
    "neu": "neutral",
    "fru": "frustrated",
    "sur": "surprised",
    "fea": "fearful",
    "dis": "disgusted",
    "oth": "other",
    "xxx": None,
}
"""Words for the codes. ``xxx`` stands for no emotion: the raters did not agree (2507 of the 10039 utterances)."""

_GENDERS = {"F": "female", "M": "male"}
_RATED = re.compile(r"\[[\d.]+ - [\d.]+\]\t(\S+)\t(\w+)\t\[")
_SPOKEN = re.compile(r"(\S+) \[[\d.]+-[\d.]+\]:(.*)")


class _Utterance(NamedTuple):
    id: str
    file: Path
    emotion: str | None
    transcript: str | None


class IEMOCAP:
    """Iterate over the utterances of IEMOCAP, session by session and dialogue by dialogue.

    The utterances are those rated in ``dialog/EmoEvaluation/Ses*.txt``, one line each among the lines of the single
    raters. The subfolders there, which repeat the names, and the ``._`` files of macOS are skipped. A clip's id is the
    utterance's. Its gender is the speaker's, given by the last part of the id (``Ses01F_impro01_M000`` is a man: the
    first ``F`` says who wore the markers). Its group is the speaker, by session and gender: ``Ses01M``. It has no
    emotion if the raters did not agree, and no transcript if ``dialog/transcriptions`` has none.

    Args:
        root: ``IEMOCAP_full_release`` or the folder around it.

    Raises:
        UserError: if there are no ratings under the folder, or one has an unknown emotion.
    """

    def __init__(self, root: Path) -> None:
        release = root / "IEMOCAP_full_release"
        self.root = release if release.is_dir() else root
        ratings = sorted(self.root.glob("Session[1-5]/dialog/EmoEvaluation/Ses*.txt"))
        if not ratings:
            raise UserError(
                f"no Session*/dialog/EmoEvaluation/Ses*.txt is under {str(self.root)!r}: give the folder of "
                "IEMOCAP_full_release"
            )
        self._utterances = [utterance for file in ratings for utterance in _read(file)]

    def __len__(self) -> int:
        """Count the rated utterances, with and without audio."""
        return len(self._utterances)

    def __iter__(self) -> Iterator[Clip | Failure]:
        """Read utterance by utterance; one without a file is a failure."""
        for name, file, emotion, transcript in self._utterances:
            recording = decode(file, name)
            if isinstance(recording, Failure):
                yield recording
                continue
            waveform, sample_rate_hz, note = recording
            initial = name.rpartition("_")[2][:1]
            gender = _GENDERS.get(initial)
            if gender is None:
                note = and_also(f"its speaker is {name.rpartition('_')[2]!r}, neither F nor M", note)
            yield Clip(
                id_of(name),
                waveform,
                sample_rate_hz,
                "IEMOCAP",
                emotion=emotion,
                gender=gender,
                transcript=transcript,
                group=f"{name[:5]}{initial}" if gender else None,
                note=note,
            )


def _read(ratings: Path) -> Iterator[_Utterance]:
    """Read the utterances of a dialogue, in the order of their ratings."""
    dialogue, session = ratings.stem, ratings.parents[2]
    spoken = session / "dialog" / "transcriptions" / ratings.name
    words = dict(_matches(_SPOKEN, spoken)) if spoken.is_file() else {}
    for name, code in _matches(_RATED, ratings):
        if code not in EMOTIONS:
            raise UserError(f"{name} in {str(ratings)!r} has emotion {code!r}, not one of {[*EMOTIONS]}: correct it")
        file = session / "sentences" / "wav" / dialogue / f"{name}.wav"
        yield _Utterance(name, file, EMOTIONS[code], words.get(name, "").strip() or None)


def _matches(pattern: re.Pattern[str], file: Path) -> Iterator[tuple[str, str]]:
    """Return the two groups of every line that matches; the others hold something else."""
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        if match := pattern.match(line):
            yield match[1], match[2]
