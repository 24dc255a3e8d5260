"""Ask an AudioLLM questions while it is steered, each only once: a stopped run resumes at the next clip."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import xxhash
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ard.audio import StoredClips, read_audio_manifest
from ard.audiollm import AudioLLM
from ard.naming.answers import Answers, request_key
from ard.ranks import Ranks
from ard.sae import Dictionary
from ard.steering.directions import Heard
from ard.steering.steer import Phase, Where, steer
from ard.types import Clip


@dataclass(frozen=True)
class Procedure:
    """How the model is steered and answers generated; ``positions``, ``phase``, ``keep_error``: see :func:`steer`."""

    positions: Where = "all"
    phase: Phase = "prefill"
    keep_error: bool = False
    max_new_tokens: int = 16
    clips_per_batch: int = 64


class Condition(NamedTuple):
    """What is asked, and what is done to the model while it answers."""

    prompt: str
    clamp: Mapping[int, float] | None
    """Feature to value; empty is the SAE without clamp, None the model without the SAE."""
    add: Float[Tensor, " d_in"] | None = None
    """A direction that is added to the residual stream."""
    most_tokens: int | None = None
    """Most tokens of the answer; None is what the procedure says."""

    @property
    def is_unsteered(self) -> bool:
        """Whether the model answers as it is."""
        return self.clamp is None and self.add is None


class Statements(NamedTuple):
    """Answers whose likelihood is asked for, by clip id, and the question that they are to."""

    prompt: str
    answers: Mapping[str, str]


class Listening(NamedTuple):
    """What the layer holds is asked for, of clips or of silent copies of them."""

    silenced: bool


class Measuring(NamedTuple):
    """What is measured on clips; see :meth:`Interview.spread`."""

    measure: Callable[..., Any]
    given: Sequence[Any]


class Interview:
    """One model and one dictionary, asked about clips under conditions.

    Every answer is stored as soon as it is generated, under everything that it depends on: model, question, condition,
    the weights of the dictionary, the audio shards and the clip. So several interviews may share a file, and an answer
    is not reused once any of these has changed.

    Args:
        model: the AudioLLM.
        coder: dictionary of that layer.
        layer: decoder layer, 0-based.
        answers: the file where answers are kept (JSON lines).
        procedure: how the model is steered.
        ranks: the processes that share the batches, each with an interview of its own: the first is asked, the others
            follow by :meth:`work`.
    """

    def __init__(
        self,
        model: AudioLLM,
        coder: Dictionary,
        layer: int,
        *,
        answers: Path,
        procedure: Procedure,
        ranks: Ranks = Ranks(),  # noqa: B008
    ) -> None:
        self.model, self.coder, self.layer, self.procedure, self.ranks = model, coder, layer, procedure, ranks
        self._answers = Answers(answers)
        self._answers.read()
        self._weights = coder.fingerprint()
        self._clips: dict[tuple[Path, str], StoredClips] = {}

    def __call__(self, audio: Path, clip_ids: Sequence[str], conditions: Sequence[Condition]) -> list[list[str]]:
        """Return the answers under each condition, in the order of the clips, which is that of the shards."""
        unsteered = [condition for condition in conditions if condition.is_unsteered]
        with self._answers.alone() if unsteered else nullcontext():  # all dictionaries share these
            self._ask(audio, clip_ids, unsteered)
        keys = self._ask(audio, clip_ids, conditions)
        return [[self._answers.known[f"{key}/{clip_id}"] for clip_id in clip_ids] for key in keys]

    def _ask(self, audio: Path, clip_ids: Sequence[str], conditions: Sequence[Condition]) -> list[str]:
        """Get the answers that are missing; return the key of each condition."""
        keys = [self._key(audio, self._dependencies(condition)) for condition in conditions]
        stored = self._answers.known
        missing = {clip_id for clip_id in clip_ids if any(f"{key}/{clip_id}" not in stored for key in keys)}
        self._work_together(audio, clip_ids, missing, conditions)
        return keys

    def clips(self, audio: Path, clip_ids: Sequence[str]) -> list[Clip]:
        """Read clips, in the order of the shards."""
        folder = audio, read_audio_manifest(audio).xxh3
        stored = self._clips.get(folder) or self._clips.setdefault(folder, StoredClips(audio))
        clips = list(stored(clip_ids))
        assert [clip.id for clip in clips] == list(clip_ids)
        return clips

    def hears(self, audio: Path, clip_ids: Sequence[str], *, silenced: bool = False) -> Heard:
        """Return what the layer holds at the audio tokens of clips, or of copies in which nothing is to be heard."""
        batches = self._batches(clip_ids)
        heard = Ranks.joined(self.ranks.together(self.work, audio, batches, Listening(silenced)))
        return Heard(*(torch.cat(parts) for parts in zip(*heard, strict=True)))

    def spread(self, audio: Path, clips: Sequence[Clip], measure: Callable[..., Any], *given: Any) -> list[Any]:
        """Return each rank's share of ``measure(model, coder, layer, clips, ranks, *given)``, which is no closure."""
        if self.ranks.size == 1:
            return [measure(self.model, self.coder, self.layer, clips, self.ranks, *given)]
        return self.ranks.together(self.work, audio, [[clip.id for clip in clips]], Measuring(measure, given))

    def surprise(self, audio: Path, prompt: str, answers_of_clips: Mapping[str, str]) -> list[tuple[float, int]]:
        """Return log p(answer) under the unsteered model, and the answer's number of tokens, for answers by clip id."""
        statements = Statements(prompt, answers_of_clips)
        keys = self._keys(audio, statements)
        stored = self._answers.known
        with self._answers.alone():
            missing = {clip_id for clip_id, key in keys.items() if key not in stored}
            self._work_together(audio, list(answers_of_clips), missing, statements)
        return [(log_p, num) for log_p, num in (json.loads(stored[key]) for key in keys.values())]

    def work(
        self,
        audio: Path,
        batches: Sequence[Sequence[str]],
        asked: Sequence[Condition] | Statements | Listening | Measuring,
    ) -> Any:
        """Do this rank's share of batches of clips: keep answers that are missing, or return what is measured."""
        if isinstance(asked, Listening):
            return self._listen(audio, batches, asked.silenced)
        if isinstance(asked, Measuring):
            clips = self.clips(audio, batches[0])
            return asked.measure(self.model, self.coder, self.layer, clips, self.ranks, *asked.given)
        self._answers.read()
        if isinstance(asked, Statements):
            return self._weigh(audio, batches, asked)
        return self._answer(audio, batches, asked)

    def _work_together(
        self, audio: Path, clip_ids: Sequence[str], missing: set[str], asked: Sequence[Condition] | Statements
    ) -> None:
        """Have all ranks work on the batches that lack something; a clip is always in the same batch."""
        if batches := [batch for batch in self._batches(clip_ids) if not missing.isdisjoint(batch)]:
            self.ranks.together(self.work, audio, batches, asked)
            self._answers.read()

    def _batches(self, clip_ids: Sequence[str]) -> list[Sequence[str]]:
        size = self.procedure.clips_per_batch
        return [clip_ids[i : i + size] for i in range(0, len(clip_ids), size)]

    def _listen(self, audio: Path, batches: Sequence[Sequence[str]], silenced: bool) -> list[Heard]:
        heard = []
        for batch in self.ranks.mine(batches):
            clips = self.clips(audio, batch)
            if silenced:
                clips = [replace(clip, waveform=np.zeros_like(clip.waveform)) for clip in clips]
            tokens = [x.float() for x in self.model.capture(clips, [self.layer])[self.layer]]
            means = torch.stack([x.mean(dim=0) for x in tokens]).cpu()
            mean_squares = torch.stack([x.square().sum(dim=1).mean() for x in tokens]).cpu()
            heard.append(Heard(means, mean_squares))
        return heard

    def _answer(self, audio: Path, batches: Sequence[Sequence[str]], conditions: Sequence[Condition]) -> None:
        by_key = {self._key(audio, self._dependencies(condition)): condition for condition in conditions}
        stored = self._answers.known
        for group in self._groups(audio, batches, "answers"):
            left: dict[tuple[str, tuple[str, ...]], list[tuple[str, Condition]]] = {}  # by question and clips
            for key, condition in by_key.items():
                clip_ids = tuple(clip.id for clip in group if f"{key}/{clip.id}" not in stored)
                if clip_ids:
                    left.setdefault((condition.prompt, clip_ids), []).append((key, condition))
            for (prompt, clip_ids), conditions_left in left.items():
                clips = [clip for clip in group if clip.id in clip_ids]
                prompts = self.model.prompter(clips, [prompt] * len(clips))
                with self.model.computed_once(self.layer):
                    for key, condition in conditions_left:
                        with self._under(condition):
                            answers = self.model.generate(prompts, max_new_tokens=self._most_tokens(condition))
                        of_clips = zip(clip_ids, answers, strict=True)
                        self._answers.keep_all({f"{key}/{clip_id}": answer for clip_id, answer in of_clips})

    def _weigh(self, audio: Path, batches: Sequence[Sequence[str]], statements: Statements) -> None:
        keys, stored = self._keys(audio, statements), self._answers.known
        for group in self._groups(audio, batches, "perplexity"):
            # whole batches, so that a resumed run has the same numbers to the last bit
            surprises = self._surprise(group, statements.prompt, [statements.answers[clip.id] for clip in group])
            of_clips = {keys[clip.id]: json.dumps(one) for clip, one in zip(group, surprises, strict=True)}
            self._answers.keep_all({key: one for key, one in of_clips.items() if key not in stored})

    def _keys(self, audio: Path, statements: Statements) -> dict[str, str]:
        """Return the key of each statement's likelihood, by clip id."""
        return {
            clip_id: self._key(audio, {"log_likelihood_of": answer, "prompt": statements.prompt}) + f"/{clip_id}"
            for clip_id, answer in statements.answers.items()
        }

    def _surprise(self, clips: Sequence[Clip], prompt: str, answers: Sequence[str]) -> list[tuple[float, int]]:
        prompts = self.model.prompter(clips, [prompt] * len(clips))
        of_tokens = self.model.log_likelihood(prompts, answers)
        log_p = pad_sequence(of_tokens, batch_first=True).sum(dim=1)
        return [(float(total), len(tokens)) for total, tokens in zip(log_p, of_tokens, strict=True)]

    def _groups(self, audio: Path, batches: Sequence[Sequence[str]], description: str) -> Iterator[list[Clip]]:
        """Read this rank's share of the batches, and no other clips."""
        for batch in self.ranks.share(batches, description):
            yield self.clips(audio, batch)

    def _dependencies(self, condition: Condition) -> dict[str, Any]:
        """Return what an answer depends on, besides model and audio."""
        question = {"prompt": condition.prompt, "max_new_tokens": self._most_tokens(condition)}
        if condition.is_unsteered:
            return question
        how = {name: value for name, value in asdict(self.procedure).items() if name != "clips_per_batch"}
        steered = {**question, **how, "layer": self.layer}
        if condition.clamp is not None:
            steered |= {"clamp": sorted(condition.clamp.items()), "weights": self._weights}
        if condition.add is not None:
            steered["add"] = xxhash.xxh3_64(condition.add.cpu().numpy().tobytes()).hexdigest()
        return steered

    def _most_tokens(self, condition: Condition) -> int:
        return condition.most_tokens or self.procedure.max_new_tokens

    def _key(self, audio: Path, dependencies: Mapping[str, Any]) -> str:
        digest = read_audio_manifest(audio).xxh3
        return request_key({"model": self.model.name, "audio": digest, **dependencies})[:32]

    def _under(self, condition: Condition) -> AbstractContextManager[None]:
        if condition.is_unsteered:
            return nullcontext()
        return steer(
            self.model,
            None if condition.clamp is None else self.coder,
            self.layer,
            condition.clamp,
            add=condition.add,
            positions=self.procedure.positions,
            phase=self.procedure.phase,
            keep_error=self.procedure.keep_error,
        )
