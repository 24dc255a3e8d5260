"""Table 3: how often steering a named concept turns the model's answer into the target."""

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from lightning import Callback, LightningModule, Trainer
from rich.progress import Progress
from safetensors.torch import load_file

from ard.activations import ActivationDataModule
from ard.audio import read_clips
from ard.audiollm import EMBEDDED, AudioPrompts, load_audiollm
from ard.embedding import EMBEDDED as EMBEDDED_CLAP
from ard.embedding import load_clap
from ard.monosemanticity import read_selections
from ard.naming import read_names
from ard.sae import Encoding, TopKSAE
from ard.steering.judge import ClassMatch
from ard.steering.steer import steer
from ard.types import Clip, Figure, Result, Row


@dataclass(frozen=True)
class SteeringTask:
    """One column of Table 3: answers of class ``source`` are to become ``target``.

    ``prompt`` is the question, ``classes`` the answers that it has, ``concept`` the words by which the features that
    stand for the target are found among the names.
    """

    source: str
    target: str
    prompt: str
    classes: list[str]
    concept: str


class _Trial(NamedTuple):
    """One way to steer: how many of the features closest to the concept, at how many times their maximum."""

    num_features: int
    multiple: float


class _Batch(NamedTuple):
    """Clips that the unsteered model answers with the source class, in their prompts."""

    prompts: AudioPrompts
    num_clips: int


class MeasureSteering(Callback):
    """Write ``steering.json``: the sensitivity of each task, with its controls in the same run (Sec. 4, Table 3).

    Sensitivity is the share of the clips that the unsteered model answers with the source class whose steered answer
    is the target. Which features, how many and at what value is chosen on ``selection`` and measured on ``audio``:
    features by the CLAP text cosine of their names with the task's concept, then the first of ``num_features`` x
    ``multiples`` that is most sensitive. Where no feature has a name, nothing is steered, and the choice says so.

    Args:
        out: folder of this dictionary's results.
        selection: audio shards on which the choice is made.
        audio: audio shards on which it is measured.
        tasks: the columns of the table.
        model: the model that is steered, the one whose activations trained the dictionary.
        clap: the CLAP model that compares names.
        num_features: numbers of features to try.
        multiples: values to try, in units of each feature's maximum on the probing set.
        positions: see :func:`~ard.steering.steer`.
        keep_error: likewise.
        max_new_tokens: longest answer.
        clips_per_batch: clips that are answered at once.
        seed: of the bootstrap.
    """

    def __init__(
        self,
        out: Path,
        *,
        selection: Path,
        audio: Path,
        tasks: list[SteeringTask],
        model: str = EMBEDDED,
        clap: str = EMBEDDED_CLAP,
        num_features: list[int] = [1],  # noqa: B006
        multiples: list[float] = [1.0],  # noqa: B006
        positions: Literal["all", "audio"] = "all",
        keep_error: bool = False,
        max_new_tokens: int = 16,
        clips_per_batch: int = 64,
        seed: int = 0,
    ) -> None:
        self.out, self.selection, self.audio, self.tasks = Path(out), Path(selection), Path(audio), tasks
        self.model, self.clap = model, clap
        self.num_features, self.multiples = num_features, multiples
        self.positions, self.keep_error = positions, keep_error
        self.max_new_tokens, self.clips_per_batch, self.seed = max_new_tokens, clips_per_batch, seed

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose on one split, measure on the other, write; without tasks there is nothing to write."""
        assert isinstance(pl_module, Encoding)
        if not trainer.is_global_zero or not self.tasks:
            return
        started = time.monotonic()
        data = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, ActivationDataModule)
        self._model, self._layer = load_audiollm(self.model, device=str(pl_module.device)), data.layer
        self._coder = pl_module.coder
        clips = {split: list(read_clips(split)) for split in (self.selection, self.audio)}
        rows: list[Row] = []
        chosen: dict[str, object] = {}
        with Progress(transient=True) as progress:
            for task in progress.track(self.tasks, description="steering"):
                ranked = self._ranked_features(task.concept)
                trial, tried = self._choose(self._heard_as_source(clips[self.selection], task), task, ranked)
                batches = self._heard_as_source(clips[self.audio], task)
                outcome = self._shifted(batches, task, self._clamp(ranked, trial))
                where = (task.source, task.target)
                if isinstance(self._coder, TopKSAE):
                    rows.append(self._row("No SAE", where, np.zeros(len(outcome))))
                    rows.append(self._row("SAE, no clamp", where, self._shifted(batches, task, {})))
                rows.append(self._row(pl_module.method, where, outcome, expansion=pl_module.expansion))
                chosen[f"{task.source} to {task.target}"] = {
                    "features": [{"feature": feature, "name": name} for feature, name in ranked[: trial.num_features]],
                    "multiple": trial.multiple,
                    "sensitivity_on_selection": tried,
                }
        choices = {
            "denominator": "clips that the unsteered model answers with the source class",
            "judge": "exact match of the answer's class",
            "positions": self.positions,
            "keep_error": self.keep_error,
            "value": "multiple of each feature's maximum on the probing set",
            "num_features": self.num_features,
            "multiples": self.multiples,
        }
        seconds = time.monotonic() - started
        result = Result("steering", tuple(rows), choices, self.seed, seconds, {"chosen": chosen})
        result.save(self.out / "steering.json")

    def _ranked_features(self, concept: str) -> list[tuple[int, str]]:
        """Return the selected features with their names, the names closest to the concept first."""
        selection, names = read_selections(self.out)["ard"][0], read_names(self.out)["ard"][0]
        named = [(f, name) for f, name in zip(selection.features.tolist(), names, strict=True) if name is not None]
        if not named:
            return []
        clap = load_clap(self.clap)
        closeness = (clap.text([name for _, name in named]) @ clap.text([concept]).T)[:, 0]
        return [named[index] for index in closeness.argsort(descending=True, stable=True).tolist()]

    def _clamp(self, ranked: Sequence[tuple[int, str]], trial: _Trial) -> dict[int, float]:
        maximum = load_file(self.out / "representatives.safetensors")["max_activation"]
        return {feature: trial.multiple * float(maximum[feature]) for feature, _ in ranked[: trial.num_features]}

    def _choose(
        self, batches: list[_Batch], task: SteeringTask, ranked: Sequence[tuple[int, str]]
    ) -> tuple[_Trial, dict[str, float]]:
        """Return the most sensitive trial on the selection split, the smallest of equals, and all that was tried."""
        counts = sorted({min(n, len(ranked)) for n in self.num_features})
        trials = [_Trial(n, multiple) for n, multiple in product(counts, self.multiples) if n]
        if not trials or not batches:
            return _Trial(counts[0], self.multiples[0]), {}
        tried = {trial: float(self._shifted(batches, task, self._clamp(ranked, trial)).mean()) for trial in trials}
        best = max(tried, key=lambda trial: tried[trial])
        return best, {f"{trial.num_features} x {trial.multiple:g}": share for trial, share in tried.items()}

    def _heard_as_source(self, clips: Sequence[Clip], task: SteeringTask) -> list[_Batch]:
        """Keep the clips that the unsteered model answers with the source class."""
        judge = ClassMatch(task.classes)
        kept: list[Clip] = []
        for start in range(0, len(clips), self.clips_per_batch):
            batch = clips[start : start + self.clips_per_batch]
            answers = self._model.generate(batch, [task.prompt] * len(batch), self.max_new_tokens)
            kept += [clip for clip, said in zip(batch, judge(answers), strict=True) if said == task.source]
        groups = [kept[i : i + self.clips_per_batch] for i in range(0, len(kept), self.clips_per_batch)]
        return [_Batch(self._model.prompter(group, [task.prompt] * len(group)), len(group)) for group in groups]

    def _shifted(self, batches: list[_Batch], task: SteeringTask, clamp: Mapping[int, float]) -> np.ndarray:
        """Return for every clip whether the answer under the clamp is the target."""
        judge = ClassMatch(task.classes)
        shifted: list[bool] = []
        for batch in batches:
            with self._steered(clamp):
                answers = self._model.generate(batch.prompts, max_new_tokens=self.max_new_tokens)
            shifted += [said == task.target for said in judge(answers)]
        return np.array(shifted, dtype=float)

    def _steered(self, clamp: Mapping[int, float]) -> AbstractContextManager[None]:
        return steer(self._model, self._coder, self._layer, clamp, positions=self.positions, keep_error=self.keep_error)

    def _row(self, method: str, where: tuple[str, str], shifted: np.ndarray, expansion: int | None = None) -> Row:
        figure = Figure.estimate(shifted, np.mean, "share of clips", seed=self.seed)
        return Row(method, self._layer, expansion, {"sensitivity": figure}, source=where[0], target=where[1])
