"""Table 3: how often steering a named concept turns the model's answer into the target."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from ard.audio import read_audio_manifest, read_clips
from ard.audiollm import EMBEDDED, load_audiollm
from ard.embedding import EMBEDDED as EMBEDDED_CLAP
from ard.monosemanticity import read_selections
from ard.naming import Chat, read_names
from ard.probing import Evaluator
from ard.results import Result, Row
from ard.run import Cell
from ard.steering.axbench import scored_by
from ard.steering.captions import check_transcription
from ard.steering.choice import BY_EFFECT, STEERED, Chooser, Features
from ard.steering.diagnosis import Examination
from ard.steering.directions import Direction, save_directions
from ard.steering.effects import Asked
from ard.steering.experiment import CONTROLS, RANKED, WITHOUT_SAE, Experiment, Measured
from ard.steering.features import features_by_name
from ard.steering.forecast import Forecaster, rank_correlations, with_outcome
from ard.steering.functional import is_selection
from ard.steering.interview import Interview, Procedure
from ard.steering.judge import ExactMatch, Judge, Verdict, agreement
from ard.steering.roles import Role, alone, find_roles, mean_activity, save_roles
from ard.steering.steer import Phase, Where
from ard.steering.task import SteeringTask
from ard.steering.trials import Design, Split, Trials
from ard.types import UserError


class MeasureSteering(Evaluator):
    """Write ``steering.json``: the sensitivity of each task, with its controls in the same run (Sec. 4, Table 3).

    Of the clips that the unsteered model answers with the source class, sensitivity is the share whose steered answer
    is the target. The features, their number and their value are chosen on clips that the measurement does not use:
    the features by their names, then the first of the most sensitive settings in ``num_features`` x ``multiples``. The
    controls have as many features, at the same multiple of their own maxima.

    Args:
        tasks: the columns of the table.
        audio: audio shards to measure on, for tasks without their own.
        selection: audio shards to choose on; without them, a share of the clips of ``audio`` is set aside for it. Clips
            of a group that is measured, such as a speaker, are left out of the choice.
        selection_share: share of a task's clips to choose on without ``selection``, by a seeded hash of their groups,
            such as speakers, or else of their ids; no group is on both sides.
        model: the model to steer, whose activations trained the dictionary.
        layers_path: module path of its layers, as in extraction.
        clap: the CLAP model that compares names.
        chooser: an instruction model that picks among the names closest by CLAP.
        judge: reads the answers; by default exact words, which are also counted beside any other judge.
        design: what to try and measure.
        positions: see :func:`~ard.steering.steer`.
        phase: likewise.
        keep_error: likewise.
        max_new_tokens: most tokens of an answer.
        clips_per_batch: clips answered at once.
        seed: seed of the split, the draws and the bootstrap.
    """

    needs = ("representatives", "selections", "names")
    results = ("steering",)
    makes = ("effects", "directions")
    compares_texts = True

    def __init__(
        self,
        *,
        tasks: list[SteeringTask],
        audio: Path | None = None,
        selection: Path | None = None,
        selection_share: float = 0.1,
        model: str = EMBEDDED,
        layers_path: str | None = None,
        clap: str = EMBEDDED_CLAP,
        chooser: Chat | None = None,
        judge: Judge | None = None,
        design: Design = Design(),  # noqa: B008
        positions: Where = "all",
        phase: Phase = "prefill",
        keep_error: bool = False,
        max_new_tokens: int = 16,
        clips_per_batch: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__(clap=clap, seed=seed)
        self.tasks, self.model, self.layers_path = tasks, model, layers_path
        self.audio, self.selection, self.selection_share = audio, selection, selection_share
        self.chooser, self.judge, self.design = chooser, judge or ExactMatch(), design
        self.procedure = Procedure(positions, phase, keep_error, max_new_tokens, clips_per_batch)

    def check(self, cell: Cell) -> None:
        """Fail now if clips or models that are needed later are missing."""
        for task in self.tasks:
            for folder in {self._audio(task), Path(self.selection or self._audio(task))}:
                read_audio_manifest(folder)
        if self.tasks and self.design.transcription is not None:
            check_transcription()
        for reader in (self.judge, self.chooser) if self.tasks else ():
            if reader is not None:
                reader.check()

    def evaluate(self, cell: Cell) -> Result | None:
        """Choose on one split and measure on the other; None without tasks."""
        if not self.tasks:
            return None
        trials, features = self._trials(cell)
        choose, experiment = Chooser(trials, features, self.seed), Experiment(trials, features, self.seed)
        examine = Examination(trials, features.find, self.tasks)
        read = cache(_read_split)
        tasks: dict[str, Mapping[str, Any]] = {}
        rows: list[Row] = []
        roles: list[Role] = []
        directions: dict[str, Direction] = {}
        activity = partial(mean_activity, alone(trials.interview.model, trials.interview.coder, cell.layer))
        forecast = Forecaster(trials, features.directions, activity)
        forecasts: list[dict[str, Any]] = []
        for task in self.tasks:
            selection, split, num_left_out = self._splits(task, read)
            choice = choose(task, selection, alone=cell.is_baseline, ranked=_is_ranked(cell))
            others = {other.prompt: other.question for other in self.tasks if other.prompt != task.prompt}
            if cell.is_baseline:
                measured = experiment.measure_alone(task, split, choice, ranked=_is_ranked(cell))
            else:
                expected = forecast(task, selection, choice, others.values())
                measured = experiment.measure(task, split, choice, others.values())
                measured.details |= examine(task, selection, split, choice, measured)
                forecasts += with_outcome(expected, measured.details, STEERED)
            tasks[task.name] = {
                "chosen": experiment.chosen(choice),
                "num_clips": len(split.clips),
                "num_left_out_of_selection": num_left_out,
                **measured.details,
            }
            rows += self._rows(task, measured, cell)
            roles += choice.roles
            directions |= {f"{task.name}/{name}": one for name, one in choice.directions().items()}
        save_roles(cell, roles)
        save_directions(cell, directions)
        details = {"tasks": tasks, **_judge_details(trials.verdicts)}
        if not cell.is_baseline:
            details["forecast"] = {"settings": forecasts, "rank_correlation": rank_correlations(forecasts)}
        return Result("steering", tuple(rows), self._choices(), details)

    def helper(self, cell: Cell) -> Callable[..., object]:
        """Return what asks the model about this rank's share of the clips; it loads the model when that is needed."""
        interview = cache(partial(self._interview, cell))
        return lambda *task: interview().work(*task)

    def _interview(self, cell: Cell) -> Interview:
        return Interview(
            load_audiollm(self.model, device=self.device, layers_path=self.layers_path),
            self.dictionary(cell),
            cell.layer,
            answers=cell.run.answers,
            procedure=self.procedure,
            ranks=self.ranks,
        )

    def _trials(self, cell: Cell) -> tuple[Trials, Features]:
        """Put together the model, the dictionary and the statistics of its features."""
        interview = self._interview(cell)
        stored = cell.tensors("representatives")
        trials = Trials(interview, self.judge, maxima=stored["max_activation"], design=self.design, seed=self.seed)
        find = partial(features_by_name, cell, clap=self.clap(), chat=self.chooser)
        maxima, alive = stored["max_activation"].tolist(), stored["n_active"] > 0
        roles = partial(
            find_roles,
            values={feature: maxima[feature] for feature in alive.nonzero()[:, 0].tolist()},
            names=_names(cell),
            most=self.design.most_candidates,
            most_clips=self.design.most_effect_clips,
            seed=self.seed,
        )

        def by_effect(asked: Asked, audio: Path, by_name: Sequence[int]) -> list[Role]:
            return roles(partial(interview.spread, audio), asked, by_name=by_name)

        return trials, Features(cache(find), by_effect, stored["n_active"], interview.coder.directions().cpu())

    def _audio(self, task: SteeringTask) -> Path:
        if task.audio is None and self.audio is None:
            raise UserError(f"the task {task.name!r} has no clips: give MeasureSteering or the task `audio`")
        return Path(task.audio or self.audio or "")

    def _splits(self, task: SteeringTask, read: Callable[[Path], Split]) -> tuple[Split, Split, int]:
        """Return the clips to choose on, those to measure on, and how many are left out so that no group is in both.

        Raises:
            UserError: if no clip to choose on is left, or none to measure on.
        """
        audio = self._audio(task)
        if self.selection is not None:
            given, measured = read(Path(self.selection)), read(audio)
            groups = {clip.group for clip in measured.clips} - {None}
            is_other = given.audio.resolve() != measured.audio.resolve()
            others = [clip for clip in given.clips if is_other and clip.group not in groups]
            if not others:
                raise UserError(
                    f"the clips of {str(self.selection)!r}, to choose features on, are the same or of the same groups "
                    f"(speakers) as those of {str(audio)!r}, which are measured: give other clips as `selection`, or "
                    "null, so that `selection_share` sets some groups aside"
                )
            return Split(given.audio, others), measured, len(given.clips) - len(others)
        whole = read(audio)
        group_of = {clip.id: clip.group or clip.id for clip in whole.clips}
        chosen = {one for one, group in group_of.items() if is_selection(group, self.selection_share, self.seed)}
        if len(chosen) in (0, len(whole.clips)):
            raise UserError(
                f"selection_share {self.selection_share:g} sets {len(chosen)} of the {len(whole.clips)} clips of "
                f"{str(audio)!r} aside to choose features on, of {len(set(group_of.values()))} groups (speakers): give "
                "another share or seed, or other clips as `selection`"
            )
        apart = ([clip for clip in whole.clips if (clip.id in chosen) is side] for side in (True, False))
        selection, split = (Split(audio, clips) for clips in apart)
        return selection, split, 0

    def _choices(self) -> Mapping[str, Any]:
        return {
            "denominator": self.design.denominators[0],
            **self.judge.choices,
            "positions": self.procedure.positions,
            "phase": self.procedure.phase,
            "keep_error": self.procedure.keep_error,
            "value": "multiple of each feature's maximum on the probing set",
            "num_features": self.design.num_features,
            "multiples": self.design.multiples,
            "num_draws": self.design.num_draws,
            "doses": self.design.doses,
            "denominators": self.design.denominators,
            "most_clips": self.design.most_clips,
            "most_candidates": self.design.most_candidates,
            "most_effect_clips": self.design.most_effect_clips,
            "captions": self.design.captions,
            "transcription": self.design.transcription,
            "axbench": scored_by(self.judge),
            "max_new_tokens": self.procedure.max_new_tokens,
            "selection": f"a share of {self.selection_share:g}" if self.selection is None else self.selection.name,
        }

    @staticmethod
    def _rows(task: SteeringTask, measured: Measured, cell: Cell) -> Iterator[Row]:
        for name, figures in measured.figures.items():
            method = {STEERED: cell.method, BY_EFFECT: f"{cell.method}, by effect"}.get(name, name)
            if name in RANKED and cell.is_baseline:
                method = f"{cell.method}, {name}"
            expansion = None if name in WITHOUT_SAE else cell.expansion
            row = Row(method, cell.layer, expansion, figures, source=task.source, target=task.target)
            yield row.as_control() if name in CONTROLS else row


def _is_ranked(cell: Cell) -> bool:
    """Return whether a dictionary's features are ranked among random draws: the run's own, and the first untrained one.

    Further draws of the untrained one would say the same for as many answers more.
    """
    return not cell.is_baseline or cell.label == f"e{cell.expansion}-untrained-0"


def _names(cell: Cell) -> dict[int, str]:
    """Return the names of the features that have one."""
    features, names = read_selections(cell)["ard"][0].features.tolist(), read_names(cell)["ard"][0]
    return {feature: name for feature, name in zip(features, names, strict=True) if name is not None}


def _read_split(audio: Path) -> Split:
    """Read clips without their waveforms, to save memory."""
    return Split(audio, [replace(clip, waveform=np.zeros(0, dtype=np.float32)) for clip in read_clips(audio)])


def _judge_details(verdicts: Sequence[tuple[Verdict, Verdict]]) -> dict[str, Any]:
    """Return how the judge did on the verdicts that went into the table."""
    kappa, num_read = agreement(verdicts)
    unreadable = sum(verdict is None for verdict, _ in verdicts)
    return {
        "kappa_with_exact_match": kappa,
        "num_judged_by_both": num_read,
        "num_verdicts": len(verdicts),
        "num_unreadable": unreadable,
    }
