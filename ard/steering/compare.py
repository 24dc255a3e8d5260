"""What the model answers as it is, and under each of some changes, clip by clip."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import xxhash
from jaxtyping import Float
from torch import Tensor

from ard.audiollm import AudioLLM
from ard.naming.answers import Answers, request_key
from ard.results import write_text
from ard.sae import Dictionary
from ard.steering.steer import Phase, Where, clamp_values, steer
from ard.types import Clip, UserError

Value = float | list[float]
"""One value for all features, or one for each."""


class Change(NamedTuple):
    """What is done to a layer while the model answers: features are set, or a direction is added."""

    setting: str
    """What it is, in words."""
    dose: str = ""
    clamp: Mapping[int, float] | None = None
    add: Float[Tensor, " d_in"] | None = None


WITHOUT, SAE_ALONE = Change("without"), Change("with the SAE, nothing set", clamp={})
"""What changes are compared with. The reconstruction alone may change an answer, unless the error is kept."""


class Answer(NamedTuple):
    """One answer: to which clip and question, and under what; ``dose`` is empty where nothing is set."""

    clip: str
    prompt: str
    setting: str
    dose: str
    answer: str


def features_set(
    coder: Dictionary,
    features: Sequence[int],
    values: Sequence[Value],
    *,
    maxima: Float[Tensor, " features"] | None = None,
    names: Mapping[int, str] = {},
) -> list[Change]:
    """Return a change for each value that all features are set to, or each list of one value for each feature.

    Args:
        coder: the dictionary.
        features: the features.
        values: activations, or multiples of ``maxima`` if they are given.
        maxima: each feature's maximum.
        names: of features, to say what is set.

    Raises:
        UserError: if a feature is given twice or cannot be set, or there is not one value for each.
    """
    if len(set(features)) < len(features):
        raise UserError(f"features {list(features)} are not all different: give every feature once")
    setting = ", ".join(f"feature {one}" + (f" ({names[one]})" if one in names else "") for one in features)
    changes = []
    for value in values:
        of_each = value if isinstance(value, list) else [value] * len(features)
        if len(of_each) != len(features):
            raise UserError(
                f"{len(of_each)} values are given for {len(features)} features: give one for all, or one each (--sweep "
                "tries several for all)"
            )
        clamp = clamp_values(coder, dict(zip(features, of_each, strict=True)), maxima)
        changes.append(Change(setting, dose_text(value), clamp))
    return changes


def direction_added(name: str, direction: Float[Tensor, " d_in"], multiples: Sequence[Value]) -> list[Change]:
    """Return a change for each multiple of a direction.

    Raises:
        UserError: if there are several values where a direction takes one.
    """
    changes = []
    for multiple in multiples:
        if isinstance(multiple, list):
            raise UserError(
                f"{len(multiple)} values are given for one direction: give one (--sweep tries several, one after the "
                "other)"
            )
        changes.append(Change(f"direction {name}", dose_text(multiple), add=multiple * direction))
    return changes


def dose_text(value: Value) -> str:
    """Return a dose in the fewest digits; one value for each feature stand behind one another."""
    return " ".join(f"{one:g}" for one in (value if isinstance(value, list) else [value]))


def compare_answers(
    model: AudioLLM,
    coder: Dictionary | None,
    layer: int,
    changes: Sequence[Change],
    clips: Iterable[Clip],
    prompt: str,
    *,
    positions: Where = "all",
    phase: Phase = "prefill",
    keep_error: bool = False,
    max_new_tokens: int = 64,
    clips_per_batch: int = 8,
    watch: Callable[[int, list[str]], None] | None = None,
) -> Iterator[list[Answer]]:
    """Yield for each clip the model's answers under all changes.

    Args:
        model: the AudioLLM.
        coder: the dictionary whose features are set; None where only directions are added.
        layer: decoder layer, 0-based.
        changes: what is done, one after the other.
        clips: the clips; no more than a batch of them is in memory.
        prompt: the question.
        positions: see :func:`~ard.steering.steer`.
        phase: likewise.
        keep_error: likewise.
        max_new_tokens: most tokens of an answer.
        clips_per_batch: clips answered at once.
        watch: is called after every token with the place of a change in ``changes``, and the answers under it so far;
            what it raises ends everything.
    """
    how = partial(steer, positions=positions, phase=phase, keep_error=keep_error)

    def under(change: Change) -> AbstractContextManager[None]:
        if change.clamp is None and change.add is None:
            return nullcontext()
        return how(model, None if change.clamp is None else coder, layer, change.clamp, add=change.add)

    for group in _batches(clips, clips_per_batch):
        prompts = model.prompter(group, [prompt] * len(group))
        answers = []
        with model.computed_once(layer):
            for place, change in enumerate(changes):
                seen = None if watch is None else partial(watch, place)
                with under(change):
                    answers.append(model.generate(prompts, max_new_tokens=max_new_tokens, watch=seen))
        for clip, of_clip in zip(group, zip(*answers, strict=True), strict=True):
            pairs = zip(changes, of_clip, strict=True)
            yield [Answer(clip.id, prompt, change.setting, change.dose, answer) for change, answer in pairs]


class Sheet:
    """Answers on their way into a CSV file, a column a field, kept clip by clip so that a command can go on.

    They are kept in a hidden folder beside the file, until :meth:`write` writes the file whole.

    Args:
        path: the CSV file.
        changes: what is done, one after the other.
        about: all else that answers depend on beside the clip, to be written as JSON.
    """

    def __init__(self, path: Path, changes: Sequence[Change], about: Mapping[str, Any]) -> None:
        self.path = path
        added = [None if change.add is None else change.add.tolist() for change in changes]
        self._about = {**about, "added": added, "set": [change._replace(add=None) for change in changes]}
        self._kept = Answers(path.with_name(f".{path.name}.answers") / "kept.jsonl")
        self._kept.read()
        self._keys: dict[str, str] = {}

    def missing(self, clips: Iterable[Clip], skip: Callable[[], object]) -> Iterator[Clip]:
        """Yield the clips whose answers are not there yet, and call ``skip`` for each of the others."""
        for clip in clips:
            sound = xxhash.xxh3_64(clip.waveform.tobytes()).hexdigest()
            self._keys[clip.id] = request_key({**self._about, "clip": clip.id, "sound": sound})
            if self._keys[clip.id] in self._kept.known:
                skip()
            else:
                yield clip

    def keep(self, answers: Sequence[Answer]) -> None:
        """Keep the answers about one clip."""
        self._kept.keep(self._keys[answers[0].clip], json.dumps(answers))

    def write(self) -> int:
        """Write the file, in the order of the clips, and return how many answers it has."""
        rows = [row for key in self._keys.values() for row in json.loads(self._kept.known[key])]
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(Answer._fields)
        table.writerows(rows)
        write_text(self.path, text.getvalue())
        kept = self._kept.path.parent
        for path in kept.iterdir():
            path.unlink()
        kept.rmdir()
        return len(rows)


def _batches(clips: Iterable[Clip], size: int) -> Iterator[list[Clip]]:
    group: list[Clip] = []
    for clip in clips:
        group.append(clip)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
