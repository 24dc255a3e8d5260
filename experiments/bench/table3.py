"""What steering costs for one task of Table 3 of the demo, by part, and what its two short cuts save.

The dictionary is trained on the task's own selection clips, and its features are ranked at random in place of their
names: which of them are set changes little of what that costs. Times are those that the process computes on one thread,
so that a busy machine changes little; ways are timed in turn, round by round, and medians are of the rounds.
"""

import random
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from lightning import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from ard.audio import SyntheticCorpus, write_audio_shards
from ard.audiollm import AudioLLM, load_audiollm
from ard.presets import preset_files
from ard.sae import SAETraining, TopKSAE
from ard.steering import (
    Asked,
    ClassMatch,
    Condition,
    Design,
    Interview,
    Procedure,
    SteeringTask,
    alone,
    measure_effects,
    steer,
)
from ard.steering.choice import STEERED, Chooser, Features
from ard.steering.diagnosis import Examination
from ard.steering.experiment import NO_CLAMP, NO_SAE, Experiment
from ard.steering.features import Found, NamedFeature
from ard.steering.forecast import Forecaster
from ard.steering.judge import ExactMatch
from ard.steering.roles import find_roles, mean_activity
from ard.steering.settings import Setting
from ard.steering.trials import Split, Trials
from ard.types import Clip
from experiments.bench.planning import QUIET
from experiments.bench.preparing import one_thread
from experiments.bench.report import Line

TITLE = "Table 3: one task of the demo by part, and what its short cuts save"
TASK = "sad to happy"


class Size(NamedTuple):
    """How much is timed: clips to choose on and to measure on are as many as in the demo."""

    selection: int = 160
    measured: int = 320
    conditions: int = 24  # of the same prompts
    features: int = 24  # whose effects are measured
    effect_clips: int = 12
    draws: int = 10  # of random features, and as many of directions
    training_steps: int = 200
    rounds: int = 3
    design: Mapping[str, Any] = MappingProxyType({})  # what differs from the demo's


class Steered(NamedTuple):
    """Everything that the parts of a task work with."""

    model: AudioLLM
    sae: TopKSAE
    layer: int
    tasks: Mapping[str, SteeringTask]
    design: Design
    procedure: Procedure
    maxima: Float[Tensor, " features"]
    n_active: Int[Tensor, " features"]
    selection: Split
    measured: Split
    source: Sequence[Clip]  # clips of the selection that the model answers with the task's source
    answers: Sequence[str]  # its answers to them

    @property
    def task(self) -> SteeringTask:
        """The task that is timed."""
        return self.tasks[TASK]

    @property
    def alive(self) -> list[int]:
        """The features that fire in the selection."""
        return self.n_active.nonzero()[:, 0].tolist()

    @property
    def values(self) -> dict[int, float]:
        """Each living feature's maximum."""
        return {feature: float(self.maxima[feature]) for feature in self.alive}

    def find(self, concept: str) -> Found:
        """Rank the living features at random, for every concept in another order."""
        ranked = random.Random(concept).sample(self.alive, len(self.alive))
        return Found([NamedFeature(feature, f"feature {feature}", 0.0) for feature in ranked], "chance")


def prepare(size: Size, folder: Path) -> Steered:
    """Make the demo's clips, a dictionary of its size and the statistics of its features."""
    demo = preset_files("demo", {}, ("fit", "steer"))
    settings = demo["steer"]["trainer"]["callbacks"][0]["init_args"]
    tasks = {task.name: task for task in (SteeringTask(**facts) for facts in settings["tasks"])}
    splits = {}
    for name, num_clips in (("select", size.selection), ("measure", size.measured)):
        splits[name] = Split(folder / name, list(SyntheticCorpus(f"bench-{name}", num_clips, speech_share=1.0)))
        write_audio_shards(splits[name].clips, folder / name)
    model, layer, task = load_audiollm(), demo["layer"], tasks[TASK]
    procedure = Procedure(settings["positions"], max_new_tokens=settings["max_new_tokens"])
    clips = splits["select"].clips
    heard, answers = [], []
    for start in range(0, len(clips), procedure.clips_per_batch):
        group = clips[start : start + procedure.clips_per_batch]
        prompts = model.prompter(group, [task.prompt] * len(group))
        heard += model.capture(prompts, [layer])[layer]
        answers += model.generate(prompts, max_new_tokens=procedure.max_new_tokens)
    x = torch.cat(heard).float()
    x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]
    training = SAETraining(**demo["fit"]["model"]["init_args"])
    batch_tokens = demo["fit"]["data"]["init_args"]["batch_tokens"]
    tokens: DataLoader[Tensor] = DataLoader(list(x), batch_tokens)  # type: ignore[arg-type]
    Trainer(max_steps=size.training_steps, limit_val_batches=0, **QUIET).fit(training, tokens)
    sae = training.trained()[demo["expansion"]].eval()
    with torch.inference_mode():
        codes = sae.encode(x)
    features, values = codes.indices.flatten().long(), codes.values.flatten()
    stated = ClassMatch(task.question.classes)(answers)
    source = [index for index, name in enumerate(stated) if name == task.source]
    return Steered(
        model=model,
        sae=sae,
        layer=layer,
        tasks=tasks,
        design=Design(**{**settings["design"], **size.design}),
        procedure=procedure,
        maxima=torch.zeros(sae.d_sae).scatter_reduce(0, features, values, "amax"),
        n_active=features[values > 0].bincount(minlength=sae.d_sae),
        selection=splits["select"],
        measured=splits["measure"],
        source=[clips[index] for index in source],
        answers=[answers[index] for index in source],
    )


class Clock:
    """The seconds that the process computes, by what it does, round by round, and those on the clock meanwhile."""

    def __init__(self) -> None:
        self.rounds: dict[str, list[float]] = {}
        self.computed = self.passed = 0.0

    def __call__(self, run: Callable[[], Any], what: str | None = None) -> tuple[Any, float]:
        """Return what a call returns and its seconds; keep them under a name, if there is one."""
        started, began = time.process_time(), time.perf_counter()
        returned = run()
        seconds = time.process_time() - started
        self.computed, self.passed = self.computed + seconds, self.passed + time.perf_counter() - began
        if what is not None:
            self.keep(what, seconds)
        return returned, seconds

    def keep(self, what: str, seconds: float) -> None:
        """Keep the seconds of a round."""
        self.rounds.setdefault(what, []).append(seconds)

    def median(self, what: str) -> float:
        """Return the median of the rounds."""
        return statistics.median(self.rounds[what])


def answer(on: Steered, clips: Sequence[Clip], features: Sequence[int], *, once: bool) -> list[list[str]]:
    """Return the answers with each feature set, what lies below the layer computed once or every time."""
    how: dict[str, Any] = {"positions": on.procedure.positions, "phase": on.procedure.phase}
    prompts = on.model.prompter(clips, [on.task.prompt] * len(clips))

    def one(feature: int) -> list[str]:
        with steer(on.model, on.sae, on.layer, {feature: on.values[feature]}, **how):
            return on.model.generate(prompts, max_new_tokens=on.procedure.max_new_tokens)

    if not once:
        return [one(feature) for feature in features]
    with on.model.computed_once(on.layer):
        return [one(feature) for feature in features]


def effects(on: Steered, num_clips: int, features: Sequence[int]) -> Float[np.ndarray, "features clips"]:
    """Return the change of the log-odds that each feature makes."""
    return measure_effects(
        on.model,
        on.sae,
        on.layer,
        {feature: on.values[feature] for feature in features},
        Asked(on.task, on.source[:num_clips], on.answers[:num_clips], on.procedure),
    ).change


def time_short_cuts(on: Steered, size: Size, clock: Clock) -> None:
    """Time the ways of the two short cuts in turn, after a round that is not counted; they give the same."""
    asked, some = on.source[: on.design.most_clips], on.source[: size.effect_clips]
    conditions, features = on.alive[: size.conditions], on.alive[: size.features]
    for number in range(size.rounds + 1):
        timed = clock if number else Clock()
        every, _ = timed(partial(answer, on, asked, conditions, once=False), "conditions, all computed")
        once, _ = timed(partial(answer, on, asked, conditions, once=True), "conditions, computed once")
        assert once == every
        many, _ = timed(partial(effects, on, len(some), features), "effects, many a pass")
        single, _ = timed(lambda: [effects(on, len(some), [one])[0] for one in features], "effects, one by one")
        assert np.allclose(many, np.stack(single), atol=1e-3)
        timed(partial(answer, on, some, features, once=True), "effects, answers")


def time_task(on: Steered, num_draws: int, clock: Clock, answers: Path) -> None:
    """Time the parts of a task in the order in which they are run, each with the answers that are there already.

    A part that is asked for by the design is timed beside the same call without it, where all answers are there.
    """
    task, others = on.task, {one.prompt: one.question for one in on.tasks.values() if one.prompt != on.task.prompt}
    interview = Interview(on.model, on.sae, on.layer, answers=answers, procedure=on.procedure)
    nothing = replace(on.design, num_draws=0, doses=[], captions="nowhere")
    of_task = partial(
        find_roles,
        alone(on.model, on.sae, on.layer),
        values=on.values,
        names={},
        most=on.design.most_candidates,
        most_clips=on.design.most_effect_clips,
    )

    def roles(asked: Asked, audio: Path, by_name: Sequence[int]) -> list[Any]:
        return of_task(asked, by_name=by_name)

    features = Features(on.find, roles, on.n_active, on.sae.directions().cpu())

    def trials(**asked: Any) -> Trials:
        return Trials(interview, ExactMatch(), maxima=on.maxima, design=replace(nothing, **asked), seed=0)

    def by_name() -> None:
        """Choose by names and measure, with the two controls of the paper: all that it does."""
        own = Chooser(trials(), features._replace(roles=lambda *_: []), 0)(task, on.selection, alone=True).own
        measure(trials(), {STEERED: own.setting})

    def measure(by: Trials, settings: Mapping[str, Setting | None]) -> None:
        conditions = {NO_SAE: [Condition(task.prompt, None)], NO_CLAMP: [Condition(task.prompt, {})]}
        conditions |= {name: [by.condition(task.question, setting)] for name, setting in settings.items()}
        outcome = by.outcome(task, on.measured, conditions)
        for name in outcome.reached:
            by.figures(outcome, name)

    def all_methods() -> Any:
        choice = Chooser(trials(), features, 0)(task, on.selection)
        measure(trials(), {one.name: one.setting for one in (choice.own, *choice.others)})
        return choice

    def choose(draws: int) -> Any:
        """Choose once more, with what features do already measured."""
        known = features._replace(roles=lambda *_: choice.roles)
        return Chooser(trials(num_draws=draws), known, 0)(task, on.selection)

    def whole(of: Any = None, **asked: Any) -> Any:
        return Experiment(trials(**asked), features, 0).measure(task, on.measured, of or choice, others.values())

    clock(by_name, "names")
    choice, _ = clock(all_methods, "all methods")
    measured, _ = clock(whole, "side effects")
    _, again = clock(whole)
    clock.keep("doses", clock(partial(whole, doses=on.design.doses))[1] - again)
    clock.keep("captions", clock(partial(whole, captions="setting"))[1] - again)
    activity = partial(mean_activity, alone(on.model, on.sae, on.layer))
    forecast = Forecaster(trials(doses=on.design.doses), features.directions, activity)
    clock(lambda: forecast(task, on.selection, choice, others.values()), "forecast")
    examine = Examination(trials(), features.find, list(on.tasks.values()))
    clock(lambda: examine(task, on.selection, on.measured, choice, measured), "layers")
    _, chosen_again = clock(partial(choose, 0))
    drawn, choosing = clock(partial(choose, num_draws))
    _, measuring = clock(partial(whole, drawn, num_draws=num_draws))
    clock.keep("draws", choosing - chosen_again + measuring - again)


def main(size: Size = Size()) -> list[Line]:  # noqa: B008
    """Time the short cuts, then the parts of a task."""
    clock = Clock()
    with one_thread(), tempfile.TemporaryDirectory() as scratch:
        on = prepare(size, Path(scratch))
        time_short_cuts(on, size, clock)
        for number in range(size.rounds):
            time_task(on, size.draws, clock, Path(scratch) / f"answers-{number}.jsonl")
    once, many = clock.median("conditions, computed once"), clock.median("effects, many a pass")
    names, num = clock.median("names"), len(on.source[: on.design.most_clips])
    settings = on.design.num_settings
    parts = {
        "all methods beside it": ("all methods", f"effects of candidates, {settings} settings of each method"),
        "side effects at the setting": ("side effects", "the other question, perplexity, the reverse direction"),
        "side effects along doses": ("doses", f"{len(on.design.doses)} doses of every method"),
        "captions at the setting": ("captions", "of every method"),
        "forecast": ("forecast", "before anything is steered"),
        "layer sweep": ("layers", f"{len(on.model.layers)} layers"),
        f"{size.draws} random draws": ("draws", "of features, tuned as ours, and of directions"),
    }
    return [
        Line(f"answers under {size.conditions} conditions", once, "s", f"{num} clips, layer {on.layer}"),
        Line("the same, with all computed for each", clock.median("conditions, all computed") / once, "times as long"),
        Line(f"effects of {size.features} features on {size.effect_clips} clips", many, "s", "many in a pass"),
        Line("the same, one feature at a time", clock.median("effects, one by one") / many, "times as long"),
        Line("the answers with each feature set", clock.median("effects, answers") / many, "times as long"),
        Line("the paper's procedure", names, "s a task", "features by their names, with controls, without draws"),
        *(Line(f"more for {part}", clock.median(of) / names, "times that", note) for part, (of, note) in parts.items()),
        Line(
            "share of a core that the process had", clock.computed / clock.passed, "share", "1 if nobody else is busy"
        ),
    ]
