"""The stages of a preset, one after another, as a plan."""

import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ard.classes import import_class
from ard.naming import CAPTION_PROMPT
from ard.plan import cost
from ard.plan.gpus import GPUS, Gpu
from ard.plan.inputs import DEFAULTS, RATE_HZ, Preset, read_corpus
from ard.plan.models import QWEN2_AUDIO, Model, only_hears, read_clap, read_model
from ard.probing import SCORERS
from ard.steps import RAW, CellKey, Goal, Work, width, work
from ard.types import UserError

if TYPE_CHECKING:
    from ard.plan.encoders import EncoderModel

CLAP_WINDOW_S = 10.0


@dataclass(frozen=True)
class StagePlan:
    """One stage, or one cell of it: what it processes (tokens of all epochs), and what it leaves on the disk."""

    stage: str
    part: str
    precision: str = ""
    num_clips: int = 0
    num_tokens: int = 0
    num_bytes: int = 0
    present_bytes: int = 0  # of these, already there
    flops: int = 0
    traffic_bytes: int = 0  # of GPU memory, where it dominates: the weights in each step of an answer, the SAE's rows
    gpu_bytes: int = 0  # at least: weights, optimizer states, the largest activation
    hours: float = 0.0  # on the plan's GPU
    layer: int | None = None  # None where all layers share the stage

    @property
    def missing_bytes(self) -> int:
        """What still has to be written."""
        return max(0, self.num_bytes - self.present_bytes)


@dataclass(frozen=True)
class Plan:
    """The stages of a preset in order, the GPU and disk that they are planned for, and what was assumed."""

    stages: tuple[StagePlan, ...]
    gpu: Gpu
    utilisation: float
    disk: Path
    free_bytes: int
    num_clips: int  # of the probing set, like the next two
    num_tokens: int
    bytes_per_layer: int
    epochs: float  # how often one SAE's training sees the probing set
    assumptions: tuple[str, ...]

    @property
    def hours(self) -> float:
        """Hours on one GPU, all stages one after another."""
        return sum(stage.hours for stage in self.stages)

    @property
    def missing_bytes(self) -> int:
        """What still has to be written, all layers together."""
        return sum(stage.missing_bytes for stage in self.stages)

    @property
    def missing_bytes_by_layer(self) -> int:
        """What still has to be written if each layer is finished and removed before the next: for the largest layer."""
        layers = {stage.layer for stage in self.stages} - {None}
        return max(sum(stage.missing_bytes for stage in self.stages if stage.layer in (None, one)) for one in layers)


def plan(
    facts: Mapping[str, Any], goals: Iterable[Goal] = (1, 2, 3, 4), *, gpu: str, utilisation: float = 0.4, disk: Path
) -> Plan:
    """Plan what the steps (``ard.steps``) for some tables of a preset cost.

    A stage's hours are (FLOPs / peak + memory traffic / bandwidth) / utilisation.

    Args:
        facts: the facts of its ``run.yaml``, and its resolved ``extract``, ``fit``, ``test`` and ``steer`` files by
            these names. Two facts are for planning alone: ``corpora`` (split to a list of ``num_clips``, mean
            ``duration_s`` and ``sample_rate_hz``), where there are no audio shards yet, and ``dimensions`` (model to
            the content of its ``config.json``), which replace those that can be read.
        goals: the tables; what several of them need is counted once.
        gpu: a name in :data:`~ard.plan.gpus.GPUS`.
        utilisation: the share of the data sheet's figures that is reached, above 0 and up to 1.
        disk: where the run will be written.

    Raises:
        UserError: if the GPU is unknown, the utilisation is not a share, or the preset lacks something.
    """
    sheet = GPUS.get(gpu.upper().replace(" ", "").replace("-", ""))
    if sheet is None:
        raise UserError(f"GPU {gpu!r} is unknown: choose one of {sorted(GPUS)}, the nearest to yours")
    if not 0 < utilisation <= 1:
        raise UserError(f"utilisation {utilisation:g} is not a share: give one above 0 and up to 1, such as 0.4")
    planner = _Planner(Preset(facts), goals)
    stages = [
        replace(stage, hours=sheet.hours(stage.flops, stage.traffic_bytes, stage.precision) / utilisation)
        for stage in planner.stages()
    ]
    num_tokens = int(planner.tokens["probe"].sum())
    return Plan(
        stages=tuple(stages),
        gpu=sheet,
        utilisation=utilisation,
        disk=disk,
        free_bytes=shutil.disk_usage(next(f for f in (disk.absolute(), *disk.absolute().parents) if f.is_dir())).free,
        num_clips=len(planner.tokens["probe"]),
        num_tokens=num_tokens,
        bytes_per_layer=planner.layer_bytes("probe"),
        epochs=planner.trained_tokens / num_tokens,
        assumptions=tuple(dict.fromkeys(planner.assumptions)),
    )


class _Planner:
    """The stages of one preset, each by its formula; ``assumptions`` is filled along the way."""

    def __init__(self, preset: Preset, goals: Iterable[Goal]) -> None:
        self.preset, self.fact, self.setting = preset, preset.fact, preset.setting
        self.assumptions: list[str] = []
        self.encoder = self._encoder(self.fact("model"))
        self.model = None if self.encoder else self._model(self.fact("model"))
        self.layers = sorted(self.fact("layers"))
        if self.encoder:
            self.d_in, self.num_layers = self.encoder.d_in, self.encoder.num_layers
        elif self.model:
            self.d_in, self.num_layers = self.model.text["hidden_size"], self.model.text["num_hidden_layers"]
        self._check()
        self.tasks = self.setting("steer", "MeasureSteering", "tasks")
        self.store_dtype = self.setting("extract", "Extraction", "store_dtype")
        self.batch_tokens = self.setting("fit", "ActivationDataModule", "batch_tokens")
        self.trained_tokens = self.batch_tokens * preset.trainer("max_steps")
        folders = {"probe": self.fact("activations"), "eval": self.fact("evaluation")}
        self.extracted = {split: Path(folder) for split, folder in folders.items() if folder}
        self.work = _work(preset, goals)
        self.corpora = {split: read_corpus(preset, split) for split in self._splits("audio")}
        window = 2 * (self.model.audio if self.model else QWEN2_AUDIO["audio_config"])["max_source_positions"]
        self.frames = {split: cost.num_mel_frames(self._num_samples(split, RATE_HZ), window) for split in self.corpora}
        self.tokens = {split: self._num_tokens(split) for split in self.corpora}
        if not self.tokens["probe"].any():
            source = self.corpora["probe"].source
            raise UserError(f"the clips of split 'probe' have no audio tokens ({source}): give longer ones")

    def stages(self) -> list[StagePlan]:
        """Return all stages in order."""
        self.assumptions += [f"clips of {split}: {corpus.source}" for split, corpus in self.corpora.items()]
        stages = [
            *(self._audio(split) for split in self.corpora),
            *(self._extraction(split) for split in self._splits("extract")),
            *(self._activations(layer) for layer in self.layers),
            *(self._training(layer, of) for layer, of in self._cells("fit") if isinstance(of, int)),
            *(self._probing(), self._embedding()),
            *(self._captions() if self._cells("test") and self._has_captions() else []),
            *(self._steering() if self._cells("steer") else []),
        ]
        self.assumptions += [
            "extraction: the clips of a batch are of similar length, so its padding does not count",
            "hours are the GPU's; not included: decoding audio, validation, text through CLAP, the SAE in "
            f"steering, and reading {2 * self.d_in * self.trained_tokens / 1e9:,.0f} GB of activations for each SAE",
            "disk space does not include the models' own weights",
        ]
        return stages

    def _splits(self, step: str) -> list[str]:
        return [one.split for one in self.work if one.step.name == step and one.split]

    def _cells(self, step: str) -> list[CellKey]:
        return [one.cell for one in self.work if one.step.name == step and one.cell]

    def layer_bytes(self, split: str) -> int:
        """Return the bytes of a layer, summed over its shards; each has the clips of one audio shard."""
        itemsize = _itemsize(self.store_dtype)
        in_shards = np.split(self.tokens[split], np.cumsum(self.corpora[split].shard_sizes)[:-1])
        return sum(cost.shard_bytes(tokens, self.d_in, itemsize) for tokens in in_shards)

    def _model(self, name: str) -> Model:
        model = read_model(self.preset, name)
        self.assumptions.append(f"dimensions of {name}: {model.source}")
        return model

    def _encoder(self, name: str) -> "EncoderModel | None":
        """Return the model if it is an encoder."""
        if not only_hears(self.preset, name):
            return None
        from ard.plan.encoders import EncoderModel  # with transformers, which is slow to import

        self.assumptions.append(f"tokens and work of {name}: counted on its classes without weights")
        return EncoderModel(name, *(self.preset.facts.get(fact) for fact in ("layers_path", "window")))

    def _num_samples(self, split: str, rate_hz: int) -> np.ndarray:
        """Return the samples of clips at a model's rate."""
        corpus = self.corpora[split]
        return -(-corpus.num_samples * rate_hz // corpus.rates_hz)

    def _num_tokens(self, split: str) -> np.ndarray:
        if self.encoder is None:
            return cost.num_audio_tokens(self.frames[split])
        return self.encoder.num_tokens(self._num_samples(split, self.encoder.rate_hz))

    def _check(self) -> None:
        """Refuse a preset whose layers or width are another model's."""
        name, deepest = self.fact("model"), self.num_layers - 1
        if not self.layers:
            raise UserError("the preset's `layers` is empty: name at least one")
        for layer in self.layers:
            if not 0 <= layer <= deepest:
                raise UserError(f"layer {layer} does not exist in {name!r}: it has layers 0 to {deepest}")
        if self.fact("d_in") != self.d_in:
            fault = f"d_in {self.fact('d_in')} is not the width of {name!r}, which is {self.d_in}"
            raise UserError(f"{fault}: give --run.d_in {self.d_in}")

    def _audio(self, split: str) -> StagePlan:
        corpus, num_clips = self.corpora[split], len(self.tokens[split])
        return StagePlan("audio shards", split, "", num_clips, 0, corpus.num_bytes, corpus.present_bytes)

    def _extraction(self, split: str) -> StagePlan:
        """One pass up to the deepest layer: of an encoder, or of encoder and decoder over the whole prompt."""
        if self.encoder:
            own, num_weights = self.encoder.dtype, self.encoder.num_weights
            flops = self.encoder.flops(self._num_samples(split, self.encoder.rate_hz), self.layers[-1])
        else:
            assert self.model is not None
            counted = cost.model_cost(self.model.audio, self.model.text, self.layers[-1])
            own, num_weights = self.model.dtype, counted.num_weights
            flops = counted.prefill_flops(self.frames[split], self.model.num_text_tokens(""))
        chosen, tokens = self.setting("extract", "Extraction", "dtype"), self.tokens[split]
        dtype = own if chosen == "auto" else chosen
        size = num_weights * _itemsize(dtype)
        return StagePlan("extraction", split, dtype, len(tokens), int(tokens.sum()), flops=flops, gpu_bytes=size)

    def _activations(self, layer: int) -> StagePlan:
        tokens = np.concatenate([self.tokens[split] for split in self.extracted])
        num_bytes = sum(self.layer_bytes(split) for split in self.extracted)
        written = [path for folder in self.extracted.values() for path in folder.glob(f"layer-{layer}/*.tar")]
        present = sum(path.stat().st_size for path in written)
        passed = (self.store_dtype, len(tokens), int(tokens.sum()), num_bytes, present)
        return StagePlan("activation shards", f"layer {layer}", *passed, layer=layer)

    def _training(self, layer: int, expansion: int) -> StagePlan:
        """The steps of one SAE: Adam moves 28 bytes per weight, its gradient 8 more; gathered rows 2 per FLOP."""
        d_sae, num_steps = expansion * self.d_in, self.trained_tokens // self.batch_tokens
        k_aux = self.setting("fit", "SAETraining", "k_aux") if self.setting("fit", "SAETraining", "robust") else 0
        dense, sparse = cost.training_flops(self.d_in, d_sae, self.fact("k"), k_aux=k_aux)
        precision = str(self.preset.trainer("precision", "32-true"))
        dtype = "float32" if precision.startswith("32") else "bfloat16"
        num_weights, copies = 2 * self.d_in * d_sae + d_sae + self.d_in, 0
        if self.preset.trainer("enable_checkpointing", True):
            copies = self.setting("fit", "ModelCheckpoint", "save_top_k")
        self.assumptions.append(
            f"SAEs train in {dtype} (trainer.precision {precision} in fit.yaml); "
            + (f"{copies} checkpoints of each stay, with Adam's states" if copies else "no checkpoints stay")
            + ("; AuxK as if all features were dead" if k_aux else "")
        )
        return StagePlan(
            "SAE training",
            f"layer {layer}, e {expansion}",
            dtype,
            num_tokens=self.trained_tokens,
            num_bytes=num_weights * (4 + 12 * copies),
            flops=self.trained_tokens * (dense + sparse),
            traffic_bytes=36 * num_weights * num_steps + 2 * sparse * self.trained_tokens,
            gpu_bytes=16 * num_weights + 4 * self.batch_tokens * d_sae,
            layer=layer,
        )

    def _probing(self) -> StagePlan:
        """The cells of a step and a layer share a pass over the probing set; tests read the evaluation set too."""
        probe, *others = (int(self.tokens[split].sum()) for split in self.extracted)
        read = {"test": probe + sum(others), "score": probe}
        passes: dict[tuple[str, int], list[int | str | None]] = {}
        for step in read:
            for layer, of in self._cells(step):
                passes.setdefault((step, layer), []).append(of)
        widths, p = {key: [width(of, self.d_in) for of in cells] for key, cells in passes.items()}, self.fact("p")
        lists = 8 + 4 + len(SCORERS) * 2 * p * (8 + 4)  # bytes per feature: counts and maxima, then ids and scores
        return StagePlan(
            "probing",
            f"{sum(map(len, passes.values()))} cells in {len(passes)} passes",
            "float32",
            num_clips=len(self.tokens["probe"]),
            num_tokens=sum(read[step] for step, _ in passes),
            num_bytes=sum(map(sum, widths.values())) * lists,
            flops=sum(
                read[step] * cost.encoding_flops(self.d_in, width(of, self.d_in))
                for (step, _), cells in passes.items()
                for of in cells
                if of not in RAW
            ),
            gpu_bytes=4 * 2 * max(map(sum, widths.values())) * self.d_in,
        )

    def _embedding(self) -> StagePlan:
        clap, source = read_clap(self.fact("clap"))
        self.assumptions.append(f"dimensions of {self.fact('clap')}: {source}")
        corpora = [self.corpora[split] for split in self.extracted]  # clips that names are made from and tested on
        durations_s = np.concatenate([corpus.num_samples / corpus.rates_hz for corpus in corpora])
        windows = np.maximum(1, np.ceil(durations_s / CLAP_WINDOW_S))
        num_bytes, flops = 4 * len(windows) * clap["projection_dim"], int(windows.sum()) * cost.clap_flops(clap)
        part = ", ".join(self.extracted)
        return StagePlan("CLAP embedding", part, "float32", len(windows), num_bytes=num_bytes, flops=flops)

    def _has_captions(self) -> bool:
        """Return whether the namer needs captions, as the default one does."""
        namer = self.setting("test", "NameConcepts", "namer")
        return namer is None or "captions" in import_class(namer["class_path"]).needs  # type: ignore[attr-defined]

    def _captions(self) -> list[StagePlan]:
        """Each representative of a selected feature is captioned once, for all methods: at most the probing set."""
        captioner = self.setting("test", "NameConcepts", "audiollm")
        if captioner is None or only_hears(self.preset, captioner):
            self.assumptions.append("no captions: nothing in the preset answers")
            return []
        num_draws = self.setting("test", "ScoreMonosemanticity", "num_draws")
        num_names = 0
        for layer, of in self._cells("test"):
            num_features = width(of, self.d_in)
            num_selected = min(self.fact("num_selected") or num_features, num_features)
            with_baselines = isinstance(of, int) and layer == self.fact("layer") and self.fact("baselines")
            num_names += num_selected * (len(SCORERS) + num_draws if with_baselines else 1)
        frames = self.frames["probe"][: num_names * self.fact("p")]
        if "eval" in self.frames and self.fact("baselines"):
            frames = np.append(
                frames, self.frames["eval"][: self.setting("test", "NameConcepts", "num_evaluation_clips")]
            )
        self.assumptions.append(f"at most {len(frames):,} clips are captioned, all captions at the greatest length")
        if self.setting("test", "NameConcepts", "namer") is not None:
            self.assumptions.append(
                f"at most {num_names:,} names are made by a language model elsewhere, which is not counted here"
            )
        model, asked = self._model(captioner), [(1.0, frames, CAPTION_PROMPT)]
        return [self._answers("captions", "representatives", "NameConcepts", model, asked)]

    def _steering(self) -> list[StagePlan]:
        """For each task, all clips are answered unsteered, and those of the source class in every trial and control."""
        if not self.tasks or self.model is None:
            reason = "the preset has no tasks" if self.model else "an encoder answers nothing"
            self.assumptions.append(f"no steering: {reason}")
            return []
        self.assumptions.append(
            "steering: classes have equal shares of the answers; answers that tasks share count once, and perplexity "
            "is left out"
        )
        asked = [
            (1.0, self.frames[split], prompt)
            for split, prompt in dict.fromkeys(
                (split, task["prompt"]) for task in self.tasks for split in self._splits_of(task)
            )
        ]
        for task in self.tasks:
            for split, times in self._times_steered(task).items():
                asked.append((times, self.frames[split], task["prompt"]))
        return [self._answers("steering", f"{len(self.tasks)} tasks", "MeasureSteering", self.model, asked, "steer")]

    def _splits_of(self, task: Mapping[str, Any]) -> list[str]:
        """Return the splits of a task: the one to choose on, if it is a separate one, and the one to measure on."""
        folders = [self.setting("steer", "MeasureSteering", "selection")]
        folders.append(task.get("audio") or self.setting("steer", "MeasureSteering", "audio"))
        return [Path(folder).name for folder in folders if folder]

    def _times_steered(self, task: Mapping[str, Any]) -> dict[str, float]:
        """Return how often on average a clip of each split is answered under a clamp, of SAE and of coordinates."""
        design = {**DEFAULTS["Design"], **self.setting("steer", "MeasureSteering", "design")}
        *others, measured = splits = self._splits_of(task)
        share = self.setting("steer", "MeasureSteering", "selection_share")
        parts = [1.0, 1.0] if others else [share, 1 - share]
        counts = [part * len(self.frames[split]) for part, split in zip(parts, (splits[0], measured), strict=True)]
        of_source = [count / len(task["classes"]) for count in counts]
        chosen, some = (min(count, design["most_clips"] or count) for count in of_source)
        num_others = len({other["prompt"] for other in self.tasks} - {task["prompt"]})
        once = design["num_draws"] + len(design["doses"]) + 2 + 3 * num_others  # two are for the reverse direction
        times, num_dictionaries = dict.fromkeys(splits, 0.0), len(self._cells("steer"))
        times[splits[0]] += num_dictionaries * len(design["num_features"]) * len(design["multiples"]) * chosen
        times[measured] += (1 + num_dictionaries) * of_source[1] + once * some  # without clamp, then each dictionary
        return {split: number / len(self.frames[split]) for split, number in times.items()}

    def _answers(
        self,
        stage: str,
        part: str,
        caller: str,
        model: Model,
        asked: Sequence[tuple[float, np.ndarray, str]],
        config: str = "test",
    ) -> StagePlan:
        """The answers that an evaluator needs from a model: how often, on which clips, to which prompt."""
        num_new, batch = (self.setting(config, caller, x) for x in ("max_new_tokens", "clips_per_batch"))
        counted = cost.model_cost(model.audio, model.text)
        size, num_clips, flops, num_steps = counted.num_weights * _itemsize(model.dtype), 0.0, 0.0, 0.0
        for times, frames, prompt in asked:
            num_clips += times * len(frames)
            num_steps += times * math.ceil(len(frames) / batch) * num_new
            flops += times * counted.answer_flops(frames, model.num_text_tokens(prompt), batch, num_new)
        passed, traffic = (model.dtype, int(num_clips), int(num_clips * num_new)), int(num_steps * size)
        return StagePlan(stage, part, *passed, flops=int(flops), traffic_bytes=traffic, gpu_bytes=size)


def _work(preset: Preset, goals: Iterable[Goal]) -> list[Work]:
    """Return the work for the goals; without clips that have labels, that is the work of `ard run`."""
    for name in ("layer", "layers", "expansion", "expansions", "evaluation", "audio", "num_untrained"):
        preset.fact(name)
    return work(preset.facts, goals if preset.fact("evaluation") else (4, "concepts"))


def _itemsize(dtype: str) -> int:
    return getattr(torch, dtype).itemsize
