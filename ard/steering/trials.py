"""Ask under conditions, judge the answers, and count: what the choice and the measurement of Table 3 share."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from ard.results import Figure
from ard.steering.functional import Denominator, counted, sensitivity_samples
from ard.steering.interview import Condition, Interview
from ard.steering.judge import ExactMatch, Judge, Verdict
from ard.steering.settings import Setting
from ard.steering.task import Question, SteeringTask
from ard.types import Clip


@dataclass(frozen=True)
class Design:
    """What to try and measure.

    Args:
        num_features: numbers of features to try on the selection split.
        multiples: values to try there, as multiples of each feature's maximum on the probing set. Other methods try as
            many settings as these two make: directions at lengths from a quarter to four times the spread of tokens,
            the prompt in as many wordings.
        doses: values of the dose-response, as such multiples, and lengths of directions; an empty list leaves the
            dose-response out.
        num_draws: number of draws of random features, and of random directions.
        denominators: denominators of sensitivity; the table shows the first, ``steering.json`` has all. With
            ``dataset`` every clip of the split is answered under every condition, else only the clips that count.
        most_clips: most clips of a task to use for the choice, each random draw, the reverse direction, the
            dose-response, all other side effects and their forecast; None takes all that count.
        captions: whether clips with labels are captioned, to see which sounds are still named: at each method's chosen
            setting, or along its doses too.
        transcription: the prompt by which the model transcribes speech, for word error rates where captions are asked
            for; None leaves them out.
        most_candidates: most features whose effect is measured: by name, and as many by activity.
        most_effect_clips: most clips to measure effects on.
    """

    num_features: list[int] = field(default_factory=lambda: [1])
    multiples: list[float] = field(default_factory=lambda: [1.0])
    doses: list[float] = field(default_factory=lambda: [0.25, 0.5, 1.0, 2.0, 4.0, 8.0])
    num_draws: int = 3
    denominators: list[Denominator] = field(default_factory=lambda: ["predicted", "truth"])
    most_clips: int | None = None
    most_candidates: int = 20
    most_effect_clips: int = 32
    captions: Literal["nowhere", "setting", "doses"] = "setting"
    transcription: str | None = None

    @property
    def num_settings(self) -> int:
        """How many settings each method tries."""
        return len(self.num_features) * len(self.multiples)

    @property
    def lengths(self) -> list[float]:
        """The lengths at which directions are tried, in units of the spread of tokens."""
        return np.geomspace(0.25, 4.0, self.num_settings).tolist()


class Split(NamedTuple):
    """The clips of a task: the folder of their shards, and the clips without their waveforms."""

    audio: Path
    clips: Sequence[Clip]


class Outcome(NamedTuple):
    """The clips that some denominator counts: which denominators count each, and verdicts on its steered answers."""

    clip_ids: list[str]
    among: dict[Denominator, Bool[np.ndarray, " clips"]]
    reached: dict[str, Float[np.ndarray, "draws clips"]]  # by condition: 1 target, 0 not, NaN unread
    exact: dict[str, Float[np.ndarray, "draws clips"]]  # the same by exact match


class Trials:
    """Conditions put to one model, and verdicts on its answers.

    ``verdicts`` are those of the judge and of exact match that went into a table.

    Args:
        interview: asks the model.
        judge: reads its answers.
        maxima: each feature's largest activation on the probing set, the unit of values.
        design: which clips count, and how many are asked.
        seed: seed of the bootstrap.
    """

    def __init__(
        self, interview: Interview, judge: Judge, *, maxima: Float[Tensor, " features"], design: Design, seed: int
    ) -> None:
        self.interview, self.judge, self.maxima, self.design, self.seed = interview, judge, maxima, design, seed
        self.verdicts: list[tuple[Verdict, Verdict]] = []

    def condition(self, question: Question, setting: Setting | None) -> Condition:
        """Return what is done for a setting while a question is answered; without one, the SAE alone."""
        return (setting or Setting()).condition(question.prompt, self.maxima)

    def ask(self, split: Split, clip_ids: Sequence[str], conditions: Sequence[Condition]) -> list[list[str]]:
        """Return the answers under each condition."""
        return self.interview(split.audio, clip_ids, conditions)

    def judged(
        self, question: Question, answers: Sequence[str], wanted: str, *, note: bool = False
    ) -> tuple[Float[np.ndarray, " clips"], Float[np.ndarray, " clips"]]:
        """Return the verdicts of the judge and of exact match as numbers; ``note`` those that go into the table."""
        judged, exact = self.judge(question, answers, wanted), ExactMatch()(question, answers, wanted)
        if note:
            self.verdicts += zip(judged, exact, strict=True)
        return _numbers(judged), _numbers(exact)

    def source_verdicts(self, task: SteeringTask, split: Split, *, note: bool = False) -> Float[np.ndarray, " clips"]:
        """Return the verdicts on whether the unsteered model answers with the source class."""
        (answers,) = self.ask(split, [clip.id for clip in split.clips], [Condition(task.prompt, None)])
        return self.judged(task.question, answers, task.source, note=note)[0]

    def shares(
        self, task: SteeringTask, split: Split, clip_ids: Sequence[str], settings: Sequence[Setting]
    ) -> list[tuple[float, int]]:
        """Return the share of clips whose answer is the target under each setting, and of how many clips it is."""
        shares = []
        for answers in self.ask(split, clip_ids, [self.condition(task.question, setting) for setting in settings]):
            reached, _ = self.judged(task.question, answers, task.target)
            samples = sensitivity_samples(reached, np.ones(len(reached), dtype=bool))
            shares.append((float(samples.mean()) if len(samples) else math.nan, len(samples)))
        return shares

    def outcome(
        self,
        task: SteeringTask,
        split: Split,
        conditions: Mapping[str, Sequence[Condition]],
        most: int | None = None,
    ) -> Outcome:
        """Answer under every condition, and judge, the clips that count, or the first ``most`` of them."""
        is_source = self.source_verdicts(task, split, note=most is None)
        true = np.array([task.truth(clip) == task.source for clip in split.clips], dtype=bool)
        among = {name: counted(name, is_source, true) for name in self.design.denominators}
        rows = np.flatnonzero(np.any(list(among.values()), axis=0))[:most]
        clip_ids = [split.clips[row].id for row in rows]
        flat = [condition for draws in conditions.values() for condition in draws]
        answers = iter(self.ask(split, clip_ids, flat))
        reached, exact = {}, {}
        for name, draws in conditions.items():
            pairs = [self.judged(task.question, next(answers), task.target, note=True) for _ in draws]
            reached[name], exact[name] = (np.stack(each) for each in zip(*pairs, strict=True))
        return Outcome(clip_ids, {name: counts[rows] for name, counts in among.items()}, reached, exact)

    def figures(self, outcome: Outcome, name: str) -> dict[str, Figure]:
        """Return the sensitivity under every denominator, the table's first, and by exact match."""
        first, *rest = self.design.denominators
        figures = {"sensitivity": self.figure(outcome.reached[name].mean(axis=0), outcome.among[first])}
        for denominator in rest:
            among = outcome.among[denominator]
            figures[f"sensitivity_of_{denominator}"] = self.figure(outcome.reached[name].mean(axis=0), among)
        if not isinstance(self.judge, ExactMatch):
            figures["sensitivity_by_exact_match"] = self.figure(outcome.exact[name].mean(axis=0), outcome.among[first])
        return figures

    def figure(self, reached: Float[np.ndarray, " clips"], among: Bool[np.ndarray, " clips"]) -> Figure:
        """Return a sensitivity with its interval over clips."""
        return Figure.estimate(
            sensitivity_samples(reached, among), np.mean, "share of clips", over="clips", seed=self.seed
        )

    def reached(self, outcome: Outcome, name: str) -> dict[str, float]:
        """Return for each clip that counts whether its steered answer is the target, to pair rows by clip."""
        counts = outcome.among[self.design.denominators[0]]
        verdicts = zip(outcome.clip_ids, outcome.reached[name].mean(axis=0).tolist(), strict=True)
        return {clip_id: reached for (clip_id, reached), one in zip(verdicts, counts, strict=True) if one}


def _numbers(verdicts: Sequence[Verdict]) -> Float[np.ndarray, " clips"]:
    return np.array([math.nan if verdict is None else float(verdict) for verdict in verdicts], dtype=float)
