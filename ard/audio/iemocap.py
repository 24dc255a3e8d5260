"""IEMOCAP: ten actors in dialogues, every utterance rated for its emotion (Busso et al. 2008; [22] of the paper)."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from ard.audio.decoding import and_also, decode, timed_pieces
from ard.audio.events import between
from ard.audio.paths import id_of
from ard.types import Clip, Event, Failure, UserError

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

DIALOGUES = "IEMOCAP-dialogues"  # the data set of their pieces

_GENDERS = {"F": "female", "M": "male"}
_RATED = re.compile(r"\[([\d.]+) - ([\d.]+)\]\t(\S+)\t(\w+)\t\[")
_SPOKEN = re.compile(r"(\S+) \[[\d.]+-[\d.]+\]:(.*)")


class _Utterance(NamedTuple):
    id: str
    file: Path
    emotion: str | None
    transcript: str | None
    onset_s: float  # in its dialogue
    offset_s: float

    @property
    def gender(self) -> str | None:
        """The speaker's, by the last part of the id."""
        return _GENDERS.get(self.id.rpartition("_")[2][:1])

    @property
    def events(self) -> list[Event]:
        """The turn as an event of its emotion and as one of its speaker's gender."""
        labels = self.emotion, self.gender
        return [Event(self.onset_s, self.offset_s, label) for label in labels if label is not None]


class IEMOCAP:
    """Iterate over the utterances of IEMOCAP, session by session and dialogue by dialogue.

    The utterances are those rated in ``dialog/EmoEvaluation/Ses*.txt``, one line each among the lines of the single
    raters. The subfolders there, which repeat the names, and the ``._`` files of macOS are skipped. A clip's id is the
    utterance's. Its gender is the speaker's, given by the last part of the id (``Ses01F_impro01_M000`` is a man: the
    first ``F`` says who wore the markers). Its group is the speaker, by session and gender: ``Ses01M``. It has no
    emotion if the raters did not agree, and no transcript if ``dialog/transcriptions`` has none.

    With ``dialogues``, the clips are pieces of the recordings of whole dialogues in ``dialog/wav``, and each turn is an
    event: of its emotion, if the raters agreed, and of its speaker's gender. So one can tell *when* a feature hears
    either. Their group is the session, whose two speakers are in all of its dialogues.

    Args:
        root: ``IEMOCAP_full_release`` or the folder around it.
        dialogues: give dialogues rather than utterances.
        segment_s: the longest piece of a dialogue.

    Raises:
        UserError: if there are no ratings under the folder, one has an unknown emotion, or ``segment_s`` is 0 or less.
    """

    def __init__(self, root: Path, *, dialogues: bool = False, segment_s: float = 10.0) -> None:
        release = root / "IEMOCAP_full_release"
        self.root = release if release.is_dir() else root
        ratings = sorted(self.root.glob("Session[1-5]/dialog/EmoEvaluation/Ses*.txt"))
        if not ratings:
            raise UserError(
                f"no Session*/dialog/EmoEvaluation/Ses*.txt is under {str(self.root)!r}: give the folder of "
                "IEMOCAP_full_release"
            )
        if not segment_s > 0:
            raise UserError(f"segment_s {segment_s} cuts files into nothing: give a number of seconds above 0")
        self.dialogues, self.segment_s = dialogues, segment_s
        self._dialogues = {file: list(_read(file)) for file in ratings}

    def __len__(self) -> int:
        """Count the rated utterances, with and without audio, or the dialogues; one gives several clips."""
        return len(self._dialogues) if self.dialogues else sum(map(len, self._dialogues.values()))

    def __iter__(self) -> Iterator[Clip | Failure]:
        """Read utterance by utterance, or dialogue by dialogue; one without a file is a failure."""
        for ratings, utterances in self._dialogues.items():
            yield from self._pieces(ratings, utterances) if self.dialogues else _clips(utterances)

    def _pieces(self, ratings: Path, utterances: Iterable[_Utterance]) -> Iterator[Clip | Failure]:
        """Read a dialogue piece by piece."""
        name, file = ratings.stem, ratings.parents[1] / "wav" / f"{ratings.stem}.wav"
        events = sorted(event for utterance in utterances for event in utterance.events)
        for start_s, suffix, recording in timed_pieces(file, name, self.segment_s):
            if isinstance(recording, Failure):
                yield recording
                continue
            waveform, sample_rate_hz, note = recording
            heard = between(events, start_s, start_s + len(waveform) / sample_rate_hz)
            clip_id = id_of(name) + suffix
            yield Clip(clip_id, waveform, sample_rate_hz, DIALOGUES, group=name[:5], events=heard, note=note)


def _clips(utterances: Iterable[_Utterance]) -> Iterator[Clip | Failure]:
    for utterance in utterances:
        name, gender = utterance.id, utterance.gender
        recording = decode(utterance.file, name)
        if isinstance(recording, Failure):
            yield recording
            continue
        waveform, sample_rate_hz, note = recording
        speaker = name.rpartition("_")[2]
        if gender is None:
            note = and_also(f"its speaker is {speaker!r}, neither F nor M", note)
        yield Clip(
            id_of(name),
            waveform,
            sample_rate_hz,
            "IEMOCAP",
            emotion=utterance.emotion,
            gender=gender,
            transcript=utterance.transcript,
            group=f"{name[:5]}{speaker[0]}" if gender else None,
            note=note,
        )


def _read(ratings: Path) -> Iterator[_Utterance]:
    """Read the utterances of a dialogue, in the order of their ratings."""
    dialogue, session = ratings.stem, ratings.parents[2]
    spoken = session / "dialog" / "transcriptions" / ratings.name
    words = {match[1]: match[2] for match in _matches(_SPOKEN, spoken)} if spoken.is_file() else {}
    for onset, offset, name, code in (match.groups() for match in _matches(_RATED, ratings)):
        if code not in EMOTIONS:
            raise UserError(f"{name} in {str(ratings)!r} has emotion {code!r}, not one of {[*EMOTIONS]}: correct it")
        file = session / "sentences" / "wav" / dialogue / f"{name}.wav"
        spoken_words = words.get(name, "").strip() or None
        yield _Utterance(name, file, EMOTIONS[code], spoken_words, float(onset), float(offset))


def _matches(pattern: re.Pattern[str], file: Path) -> Iterator[re.Match[str]]:
    """Match every line; those that do not match hold something else."""
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    return filter(None, map(pattern.match, lines))
