"""AudioBench's two questions about speakers (Wang et al. 2025; [2] of the paper, which steers their answers)."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ard.audio.decoding import decode
from ard.types import Clip, Failure, UserError

if TYPE_CHECKING:
    from datasets import IterableDataset

Task = Literal["iemocap-emotion", "voxceleb1-gender"]


class _Facts(NamedTuple):
    """A task's place on the hub, its name in the paper, and its classes with what names each in an answer."""

    hub_id: str
    dataset: str
    field: Literal["emotion", "gender"]
    classes: Mapping[str, str]


_TASKS: Mapping[Task, _Facts] = {
    "iemocap-emotion": _Facts(
        "AudioLLMs/iemocap_emotion_recognition",
        "IEMOCAP-Emotion",
        "emotion",
        {
            "angry": r"\b(anger|angry)\b",
            "happy": r"\b(happiness|happy)\b",
            "excited": r"\b(excitement|excited)\b",
            "sad": r"\b(sadness|sad)\b",
            "neutral": r"\bneutral\b",
            "frustrated": r"\b(frustration|frustrated)\b",
            "surprised": r"\b(surprise|surprised)\b",
        },
    ),
    "voxceleb1-gender": _Facts(
        "AudioLLMs/voxceleb_gender_test", "VoxCeleb1-Gender", "gender", {"female": r"\bfemale\b", "male": r"\bmale\b"}
    ),
}


class AudioBench:
    """Iterate over the clips of a task, in the order of its rows.

    The answers are sentences (``From the speaker's speech, it seems they are in a happiness state.``). The class is
    the one that the sentence names, in the words of :data:`ard.audio.iemocap.EMOTIONS`; a sentence that names none or
    several is a failure. AudioBench's questions, drawn from ten of its own, are left out. A clip's id is the task and
    the row's number.

    Args:
        task: ``iemocap-emotion`` (1004 clips of seven emotions) or ``voxceleb1-gender`` (4874 clips).
        root: a local copy, in either form that the hub's data sets have had (``context`` and ``answer``, or
            ``context.audio`` and ``answer.text``): a folder written by ``save_to_disk``, or a download with
            ``data/test-*.parquet``. None streams from the hub.

    Raises:
        UserError: if Hugging Face ``datasets`` is not installed, the hub or the copy cannot be read, or it lacks the
            split ``test`` or the columns.
    """

    def __init__(self, task: Task, root: Path | None = None) -> None:
        self.task = task
        self._facts = _TASKS[task]
        self._stream = _open(self._facts.hub_id, root)

    def __iter__(self) -> Iterator[Clip | Failure]:
        """Read row by row."""
        for index, row in enumerate(self._stream):
            clip_id = f"{self.task}-{index:04d}"
            context, answer = _inner(row, "context", "audio"), _inner(row, "answer", "text")
            text = answer if isinstance(answer, str) else ""
            named = [name for name, word in self._facts.classes.items() if re.search(word, text, re.IGNORECASE)]
            if len(named) != 1:
                yield Failure(clip_id, "audio", f"its answer names {len(named)} classes, not one: {answer!r}")
                continue
            recording = decode(_bytes(context), clip_id)
            if isinstance(recording, Failure):
                yield recording
                continue
            waveform, sample_rate_hz, note = recording
            emotion, gender = (named[0], None) if self._facts.field == "emotion" else (None, named[0])
            dataset = self._facts.dataset
            yield Clip(clip_id, waveform, sample_rate_hz, dataset, emotion=emotion, gender=gender, note=note)


def _open(hub_id: str, root: Path | None) -> "IterableDataset":
    """Open the rows as a stream, with audio as the bytes of its file: datasets' own decoder needs torchcodec."""
    try:
        import datasets
    except ImportError as error:
        raise UserError(
            "AudioBench is read with Hugging Face datasets, which is not installed: pip install ard-audio[audiobench]"
        ) from error
    try:
        if root is None:
            stream = datasets.load_dataset(hub_id, split="test", streaming=True)
        elif parts := sorted(str(part) for part in root.glob("data/test-*.parquet")):
            stream = datasets.load_dataset("parquet", data_files=parts, split="train", streaming=True)
        else:
            saved = datasets.load_from_disk(root)
            stream = (saved["test"] if isinstance(saved, datasets.DatasetDict) else saved).to_iterable_dataset()
        stream = stream.decode(False)
    except (OSError, ValueError, KeyError) as error:
        where, reason = "the hub" if root is None else repr(str(root)), " ".join(str(error).split())
        raise UserError(
            f"{hub_id} cannot be read from {where} ({reason}): give a folder with data/test-*.parquet, or one written "
            "by save_to_disk with the split 'test', as --root"
        ) from error
    if not {"context", "answer"} <= set(stream.column_names or ()):
        raise UserError(f"columns {stream.column_names} lack 'context' and 'answer': give a copy of {hub_id} as --root")
    return stream


def _inner(row: Mapping[str, Any], column: str, key: str) -> Any:
    """Return a column's value: inside the column in the nested form, the column itself in the flat form."""
    value = row[column]
    return value[key] if isinstance(value, Mapping) and key in value else value


def _bytes(context: Any) -> bytes | None:
    """Return the bytes of a row's audio file; None if the row has none."""
    content = context.get("bytes") if isinstance(context, Mapping) else None
    return content if isinstance(content, bytes) else None
