"""The stages of a preset, one after another, as a plan."""

import math
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from ard.classes import import_class
from ard.evaluation.hearing import CONDITIONS
from ard.naming import CAPTION_PROMPT
from ard.plan import cost, machine
from ard.plan.faster import changes
from ard.plan.gpus import GPUS
from ard.plan.inputs import DEFAULTS, RATE_HZ, Preset, read_corpus
from ard.plan.machine import LOCAL_GB_S, Machine, resampling_s
from ard.plan.models import QWEN2_AUDIO, Model, only_hears, read_clap, read_model
from ard.plan.stages import Plan, StagePlan
from ard.probing import SCORERS
from ard.steps import RAW, CellKey, Goal, Work, width, work
from ard.types import UserError

if TYPE_CHECKING:
    from ard.plan.encoders import EncoderModel

CLAP_WINDOW_S, CLAP_RATE_HZ = 10.0, 48_000
OTHER_METHODS = 4
"""Baselines of Table 3 that need no dictionary: three directions, and words in the question."""


def plan(
    facts: Mapping[str, Any],
    goals: Iterable[Goal] = (1, 2, 3, 4),
    *,
    gpu: str,
    utilisation: float = 0.4,
    cores: int | None = None,
    disk_gb_s: float = LOCAL_GB_S,
    disk: Path,
) -> Plan:
    """Plan what the steps (``ard.steps``) for some tables of a preset cost.

    A stage in which workers prepare batches takes as long as the slowest of GPU, cores and disk; any other takes as
    long as all three one after another.

    Args:
        facts: the facts of its ``run.yaml``, and its resolved ``extract``, ``fit``, ``test`` and ``steer`` files by
            these names. Two facts are for planning alone: ``corpora`` (split to a list of ``num_clips``, mean
            ``duration_s`` and ``sample_rate_hz``), where there are no audio shards yet, and ``dimensions`` (model to
            the content of its ``config.json``), which replace those that can be read.
        goals: the tables; what several of them need is counted once.
        gpu: a name in :data:`~ard.plan.gpus.GPUS`.
        utilisation: the share of the data sheet's FLOP/s that the layers of models reach, above 0 and up to 1.
        cores: the cores beside the GPU; by default as many as this machine has.
        disk_gb_s: how many GB/s are read from the run's folder.
        disk: where the run will be written.

    Raises:
        UserError: if the GPU is unknown, a figure is out of range, or the preset lacks something.
    """
    sheet = GPUS.get(gpu.upper().replace(" ", "").replace("-", ""))
    if sheet is None:
        raise UserError(f"GPU {gpu!r} is unknown: choose one of {sorted(GPUS)}, the nearest to yours")
    if not 0 < utilisation <= 1:
        raise UserError(f"utilisation {utilisation:g} is not a share: give one above 0 and up to 1, such as 0.4")
    cores = (os.cpu_count() or 1) if cores is None else cores
    if cores < 1:
        raise UserError(f"cores {cores} is too few: give 1 or more")
    if not disk_gb_s > 0:
        raise UserError(f"disk_gb_s {disk_gb_s:g} is not a speed: give 1 for NFS, {LOCAL_GB_S:g} for a local NVMe disk")
    return planned(facts, goals, Machine(sheet, cores, disk_gb_s, utilisation), disk)


def planned(facts: Mapping[str, Any], goals: Iterable[Goal], on: Machine, disk: Path) -> Plan:
    """Plan for a machine of any kind; see :func:`plan`."""
    planner = Planner(Preset(facts), goals, on)
    stages = tuple(stage.on(on) for stage in planner.stages())
    num_tokens = int(planner.tokens["probe"].sum())
    return Plan(
        stages=stages,
        machine=on,
        assumptions=tuple(dict.fromkeys(planner.assumptions)),
        faster=changes(planner, stages),
        disk=disk,
        free_bytes=shutil.disk_usage(next(f for f in (disk.absolute(), *disk.absolute().parents) if f.is_dir())).free,
        num_clips=len(planner.tokens["probe"]),
        num_tokens=num_tokens,
        kind_of_tokens="tokens" if planner.captured == "all" else f"{planner.captured} tokens",
        bytes_per_layer=planner.layer_bytes("probe"),
        epochs=planner.trained_tokens / num_tokens,
    )


class Planner:
    """The stages of one preset, each by its formula; ``assumptions`` is filled along the way."""

    def __init__(self, preset: Preset, goals: Iterable[Goal], on: Machine) -> None:
        self.on = on
        self.preset, self.fact, self.setting = preset, preset.fact, preset.setting
        self.assumptions: list[str] = []
        self.encoder = self._encoder(self.fact("model"))
        self.model = None if self.encoder else self._model(self.fact("model"))
        self.layers = sorted(self.fact("layers"))
        if self.encoder:
            self.d_in, self.num_layers = self.encoder.d_in, self.encoder.num_layers
        elif self.model:
            self.d_in, self.num_layers = self.model.text["hidden_size"], self.model.text["num_hidden_layers"]
        self.captured = self.setting("extract", "Extraction", "tokens")
        self._check()
        self.tasks = self.setting("steer", "MeasureSteering", "tasks")
        self.store_dtype = self.setting("extract", "Extraction", "store_dtype")
        self.batch_tokens = self.setting("fit", "ActivationDataModule", "batch_tokens")
        self.trained_tokens = self.batch_tokens * preset.trainer("max_steps")
        folders = {"probe": self.fact("activations"), "eval": self.fact("evaluation")}
        self.extracted = {split: Path(folder) for split, folder in folders.items() if folder}
        self.work = _work(preset, goals)
        if "made" in self._splits("extract"):
            self.extracted["made"] = Path(self.fact("out")) / "activations-made"
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
            *self.trainings(),
            *(self._probing(), *self._embedding()),
            *(self._captions() if self._cells("test") and self._has_captions() else []),
            *self._hearing(),
            *(self.steering() if self._cells("steer") else []),
        ]
        self.assumptions += [
            "extraction: the clips of a batch are of similar length, so its padding does not count",
            "a stage takes as long as the slowest of GPU, CPU and disk where workers prepare its batches, or as all "
            "three: captions, steering and probing read clips in one process, one batch after another",
            f"the GPU reaches {self.on.utilisation:.0%} of its peak FLOP/s in the layers of models, "
            f"{machine.PRODUCTS:.0%} in the products of SAEs, {machine.STREAMED:.0%} of its bandwidth; a layer of a "
            f"step of an answer takes at least {1000 * machine.LAYER_S:g} ms, in which Python launches it",
            f"CPU, measured on one core: {1e9 * machine.ENCODE_S:.0f} ns to encode a sample of FLAC, "
            f"{1e9 * machine.DECODE_S:.0f} to decode it, {1e9 * machine.RESAMPLE_S:g} for each tap of resampling, "
            f"{1000 * machine.MEL_S:g} ms of mel features for a second of the model's window, "
            f"{1000 * machine.PROMPT_S:g} ms for a clip's prompt, {1000 * machine.CLAP_S:g} ms for CLAP to prepare a "
            f"window of {CLAP_WINDOW_S:g} s; {machine.MIX_S:g} s to read a GB of activations for training, "
            f"{machine.PROBE_S:g} s for probing; shards are written at {machine.WRITE_GB_S:g} GB/s (docs/bench.md)",
            "hours do not include loading models, validation, text through CLAP, names, matching, the SAE in steering",
            "disk space does not include the models' own weights",
        ]
        return stages

    def trained(self) -> dict[int, list[int]]:
        """Return the expansions that each layer is trained with, side by side."""
        by_layer: dict[int, list[int]] = {}
        for layer, of in self._cells("fit"):
            assert isinstance(of, int)
            by_layer.setdefault(layer, []).append(of)
        return by_layer

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
        """Return how many tokens of each clip are captured."""
        if self.encoder is not None:
            return self.encoder.num_tokens(self._num_samples(split, self.encoder.rate_hz))
        assert self.model is not None
        audio = cost.num_audio_tokens(self.frames[split])
        text = np.full_like(audio, self.model.num_text_tokens(""))
        return {"audio": audio, "text": text, "all": audio + text}[self.captured]

    def _check(self) -> None:
        """Refuse a preset whose layers or width are another model's."""
        name, deepest = self.fact("model"), self.num_layers - 1
        if self.captured not in ("audio", "text", "all") or (self.encoder and self.captured != "audio"):
            raise UserError(
                f"tokens {self.captured!r} of extract.yaml is none that {name!r} has: give audio, or of an "
                "AudioLLM also text or all"
            )
        if not self.layers:
            raise UserError("the preset's `layers` is empty: name at least one")
        for layer in self.layers:
            if not 0 <= layer <= deepest:
                raise UserError(f"layer {layer} does not exist in {name!r}: it has layers 0 to {deepest}")
        if self.fact("d_in") != self.d_in:
            fault = f"d_in {self.fact('d_in')} is not the width of {name!r}, which is {self.d_in}"
            raise UserError(f"{fault}: give --run.d_in {self.d_in}")

    def _audio(self, split: str) -> StagePlan:
        """One process reads the source's files, as if they were FLAC, and writes FLAC."""
        corpus, num_clips = self.corpora[split], len(self.tokens[split])
        cpu_s = 0.0 if corpus.present_bytes else (machine.DECODE_S + machine.ENCODE_S) * float(corpus.num_samples.sum())
        sizes = corpus.num_bytes, corpus.present_bytes
        written = max(0, corpus.num_bytes - corpus.present_bytes)
        return StagePlan("audio shards", split, "", num_clips, 0, *sizes, cpu_s=cpu_s, written_bytes=written)

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
        size, workers = num_weights * _itemsize(dtype), self.setting("extract", "ClipDataModule", "num_workers")
        return StagePlan(
            "extraction",
            split,
            dtype,
            len(tokens),
            int(tokens.sum()),
            flops=flops,
            gpu_bytes=size,
            gpu_s=self.on.layers_s(flops, dtype),
            cpu_s=self._preparing_s(split),
            processes=max(1, workers),
            read_bytes=self.corpora[split].num_bytes,
            written_bytes=len(self.layers) * self.layer_bytes(split),
            overlaps=workers > 0,
        )

    def _preparing_s(self, split: str, model: Model | None = None) -> float:
        """Return the seconds of one core to make a split's clips the input of a model, by default the preset's own."""
        corpus, model = self.corpora[split], model or self.model
        if model:
            rate_hz, window_s = RATE_HZ, model.audio["max_source_positions"] / 50  # mel frames of 10 ms, halved once
        else:
            assert self.encoder is not None
            rate_hz, window_s = self.encoder.rate_hz, self.encoder.window_s
        seconds = machine.DECODE_S * float(corpus.num_samples.sum())
        seconds += resampling_s(corpus.num_samples, corpus.rates_hz, rate_hz)
        return seconds + len(corpus.num_samples) * (machine.MEL_S * window_s + machine.PROMPT_S)

    def _activations(self, layer: int) -> StagePlan:
        tokens = np.concatenate([self.tokens[split] for split in self.extracted])
        num_bytes = sum(self.layer_bytes(split) for split in self.extracted)
        written = [path for folder in self.extracted.values() for path in folder.glob(f"layer-{layer}/*.tar")]
        present = sum(path.stat().st_size for path in written)
        passed = (self.store_dtype, len(tokens), int(tokens.sum()), num_bytes, present)
        return StagePlan("activation shards", f"layer {layer}", *passed, layer=layer)

    @property
    def arithmetic(self) -> str:
        """How a GPU multiplies in training: ``float32``, ``tf32``, ``bfloat16`` or ``float16``."""
        precision = str(self.preset.trainer("precision", "32-true"))
        if not precision.startswith("32"):
            return "float16" if precision.startswith("16") else "bfloat16"
        return "tf32" if self.setting("fit", "SAETraining", "float32_products") == "high" else "float32"

    def trainings(self, arithmetic: str | None = None) -> list[StagePlan]:
        """Return the training of each layer, in the preset's arithmetic or another."""
        return [self.training(layer, of, arithmetic) for layer, of in self.trained().items()]

    def training(self, layer: int, expansions: Sequence[int], arithmetic: str | None = None) -> StagePlan:
        """The steps of a layer's SAEs side by side, which read the activations once.

        Adam moves 28 bytes a weight, its gradient 8 more, and a copy in bfloat16 6. Each sparse product is made the
        faster way: dense, or by gathering rows, which is traffic of the GPU's memory and no work for its matrix units.
        """
        arithmetic = arithmetic or self.arithmetic
        itemsize = 4 if arithmetic in ("float32", "tf32") else 2
        k_aux = self.setting("fit", "SAETraining", "k_aux") if self.setting("fit", "SAETraining", "robust") else 0
        num_tokens, num_steps = self.trained_tokens, self.trained_tokens // self.batch_tokens
        flops, streamed, gathered, num_weights = 0, 0, 0, 0
        for d_sae in (expansion * self.d_in for expansion in expansions):
            of_sae = 2 * self.d_in * d_sae + d_sae + self.d_in
            num_weights += of_sae
            streamed += (36 + (6 if itemsize == 2 else 0)) * of_sae * num_steps
            for k in (self.fact("k"), k_aux) if k_aux else (self.fact("k"),):
                dense, sparse = (num_tokens * flops for flops in cost.training_flops(self.d_in, d_sae, k))
                rows = itemsize * sparse // 2  # of all four sparse products
                is_dense = self.on.products_s(4 * dense, arithmetic) < self.on.gathered_s(rows)
                flops += 5 * dense if is_dense else dense
                gathered += 0 if is_dense else rows
                streamed += machine.TOP_K_READS[itemsize] * itemsize * d_sae * num_tokens
        precision, copies, kept_every = str(self.preset.trainer("precision", "32-true")), 0, None
        if self.preset.trainer("enable_checkpointing", True):
            copies, kept_every = (
                self.setting("fit", "ModelCheckpoint", name) for name in ("save_top_k", "every_n_train_steps")
            )
        self.assumptions.append(
            f"SAEs train in {arithmetic} (trainer.precision {precision} in fit.yaml), those of a layer side by side; "
            + (f"{copies} checkpoints of each stay, with Adam's states" if copies else "no checkpoints stay")
            + ("; AuxK as if all features were dead" if k_aux else "")
        )
        workers = self.setting("fit", "ActivationDataModule", "num_workers")
        mixed = 0 if workers else 4 * self.setting("fit", "ActivationDataModule", "buffer_tokens") * self.d_in
        read = num_tokens * self.d_in * _itemsize(self.store_dtype)
        return StagePlan(
            "SAE training",
            f"layer {layer}, e {', '.join(map(str, expansions))}",
            arithmetic,
            num_tokens=num_tokens,
            num_bytes=num_weights * (4 + 12 * copies),
            flops=flops,
            traffic_bytes=streamed + gathered,
            gpu_bytes=16 * num_weights + 4 * self.batch_tokens * max(expansions) * self.d_in + mixed,
            gpu_s=self.on.products_s(flops, arithmetic) + self.on.streamed_s(streamed) + self.on.gathered_s(gathered),
            cpu_s=machine.MIX_S * read / 1e9,
            processes=max(1, workers),
            read_bytes=read,
            written_bytes=num_weights * (4 + (12 * (num_steps // kept_every) if copies and kept_every else 0)),
            overlaps=True,
            layer=layer,
        )

    def _probing(self) -> StagePlan:
        """The cells of a step and a layer share a pass over the probing set; tests read the evaluation set too."""
        probe, *others = (int(self.tokens[split].sum()) for split in self.extracted if split != "made")
        read = {"test": probe + sum(others), "score": probe}
        passes: dict[tuple[str, int], list[int | str | None]] = {}
        for step in read:
            for layer, of in self._cells(step):
                passes.setdefault((step, layer), []).append(of)
        widths, p = {key: [width(of, self.d_in) for of in cells] for key, cells in passes.items()}, self.fact("p")
        lists = 8 + 4 + len(SCORERS) * 2 * p * (8 + 4)  # bytes per feature: counts and maxima, then ids and scores
        encoded = [
            read[step] * width(of, self.d_in) for (step, _), cells in passes.items() for of in cells if of not in RAW
        ]
        flops, traffic = cost.encoding_flops(self.d_in, sum(encoded)), 4 * machine.TOP_K_READS[4] * sum(encoded)
        num_tokens = sum(read[step] for step, _ in passes)
        read_bytes = num_tokens * self.d_in * _itemsize(self.store_dtype)
        return StagePlan(
            "probing",
            f"{sum(map(len, passes.values()))} cells in {len(passes)} pass{'es' if len(passes) > 1 else ''}",
            "float32",
            num_clips=len(self.tokens["probe"]),
            num_tokens=num_tokens,
            num_bytes=sum(map(sum, widths.values())) * lists,
            flops=flops,
            traffic_bytes=traffic,
            gpu_bytes=4 * 2 * max(map(sum, widths.values())) * self.d_in,
            gpu_s=self.on.products_s(flops, "float32") + self.on.streamed_s(traffic),
            cpu_s=machine.PROBE_S * read_bytes / 1e9,
            read_bytes=read_bytes,
        )

    def _embedding(self) -> list[StagePlan]:
        name = self.fact("clap")
        if name is None or name.startswith("computed:"):
            self.assumptions.append("no CLAP embedding: the preset has no CLAP model that hears")
            return []
        clap, source = read_clap(name)
        self.assumptions.append(f"dimensions of {name}: {source}")
        mixed = {"made"} if any(part["source"] == "mixed" for part in self.fact("audio").get("made") or ()) else set()
        splits = [split for split in self.extracted if split not in mixed]  # clips that names are made from, tested on
        corpora = [self.corpora[split] for split in splits]
        durations_s = np.concatenate([corpus.num_samples / corpus.rates_hz for corpus in corpora])
        windows = np.maximum(1, np.ceil(durations_s / CLAP_WINDOW_S))
        num_bytes, flops = 4 * len(windows) * clap["projection_dim"], int(windows.sum()) * cost.clap_flops(clap)
        workers = self.setting("test", "ActivationDataModule", "num_workers")
        cpu_s = machine.CLAP_S * float(windows.sum())
        for corpus in corpora:
            cpu_s += machine.DECODE_S * float(corpus.num_samples.sum())
            cpu_s += resampling_s(corpus.num_samples, corpus.rates_hz, CLAP_RATE_HZ)
        return [
            StagePlan(
                "CLAP embedding",
                ", ".join(splits),
                "float32",
                len(windows),
                num_bytes=num_bytes,
                flops=flops,
                gpu_s=self.on.layers_s(flops, "float32"),
                cpu_s=cpu_s,
                processes=max(1, workers),
                read_bytes=sum(corpus.num_bytes for corpus in corpora),
                overlaps=workers > 0,
            )
        ]

    def _has_captions(self) -> bool:
        """Return whether the namer needs captions, as the default one does."""
        namer = self.setting("test", "NameConcepts", "namer")
        if self.setting("test", "NameConcepts", "captioner") is not None:
            self.assumptions.append("captions are made by a language model elsewhere, which is not counted here")
            return False
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
        most = {"probe": num_names * self.fact("p")}
        if "eval" in self.frames and self.fact("baselines"):
            most["eval"] = self.setting("test", "NameConcepts", "num_evaluation_clips")
        asked = [_Asked(split, self.frames[split][:number], CAPTION_PROMPT) for split, number in most.items()]
        num_captions = sum(len(one.frames) for one in asked)
        self.assumptions.append(f"at most {num_captions:,} clips are captioned, all captions at the greatest length")
        if self.setting("test", "NameConcepts", "namer") is not None:
            self.assumptions.append(
                f"at most {num_names:,} names are made by a language model elsewhere, which is not counted here"
            )
        settings = (self.setting("test", "NameConcepts", x) for x in ("max_new_tokens", "clips_per_batch"))
        return [self._answers("captions", "representatives", self._model(captioner), asked, *settings)]

    def _hearing(self) -> list[StagePlan]:
        """The prompts of every pair of every concept; those that concepts of one name share are counted for each."""
        listed = [one["class_path"].rpartition(".")[2] for one in self.fact("test")["trainer"]["callbacks"]]
        if "HearOrRead" not in listed or self.model is None or not self._cells("test"):
            return []
        wanted, num_pairs = (self.setting("test", "HearOrRead", name) for name in ("num_concepts", "num_pairs"))
        most = self.fact("num_selected") or self.d_in * self.fact("expansion")
        num_prompts = len(CONDITIONS) * num_pairs * min(wanted or most, most)
        frames = np.resize(self.frames["eval" if "eval" in self.extracted else "probe"], num_prompts)
        counted = cost.model_cost(self.model.audio, self.model.text, self.fact("layer"))
        flops = counted.prefill_flops(frames, self.model.num_text_tokens("This is the sound of something named."))
        self.assumptions.append(f"hearing or reading: {num_prompts:,} prompts, as if no two concepts shared a name")
        return [
            StagePlan(
                "hearing or reading",
                "own cell",
                self.model.dtype,
                num_prompts,
                flops=flops,
                gpu_bytes=counted.num_weights * _itemsize(self.model.dtype),
                gpu_s=self.on.layers_s(flops, self.model.dtype),
                cpu_s=num_prompts * (machine.MEL_S * self.model.audio["max_source_positions"] / 50 + machine.PROMPT_S),
            )
        ]

    def steering(self, clips_per_batch: int | None = None) -> list[StagePlan]:
        """For each task, all clips are answered unsteered, and those of the source class in every trial and control.

        Each dictionary has the clips of the source class prepared once, for all that is tried with it.
        """
        if not self.tasks or self.model is None:
            reason = "the preset has no tasks" if self.model else "an encoder answers nothing"
            self.assumptions.append(f"no steering: {reason}")
            return []
        self.assumptions.append(
            "steering: classes have equal shares of the answers; answers that tasks share count once; perplexity, "
            "effects, captions, forecasts and what conditions of the same prompts share below the layer are left out"
        )
        asked = [
            _Asked(split, self.frames[split], prompt)
            for split, prompt in dict.fromkeys(
                (split, task["prompt"]) for task in self.tasks for split in self._splits_of(task)
            )
        ]
        for task in self.tasks:
            prepared = len(self._cells("steer")) / len(task["classes"])
            for split, times in self._times_steered(task).items():
                asked.append(_Asked(split, self.frames[split], task["prompt"], times, prepared))
        num_new, batch = (self.setting("steer", "MeasureSteering", x) for x in ("max_new_tokens", "clips_per_batch"))
        part = f"{len(self.tasks)} tasks"
        return [self._answers("steering", part, self.model, asked, num_new, clips_per_batch or batch)]

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
        cells, times = self._cells("steer"), dict.fromkeys(splits, 0.0)
        num_settings, num_draws = len(design["num_features"]) * len(design["multiples"]), design["num_draws"]
        num_tuned = 2 * len(cells) + OTHER_METHODS  # of each dictionary by names and by effect
        num_draws *= sum(isinstance(of, int) or str(of).endswith("untrained-0") for _, of in cells)  # ranked among them
        times[splits[0]] += (num_tuned + num_draws) * num_settings * chosen
        doses = (OTHER_METHODS + 1) * (2 + len(design["doses"])) * (1 + num_others)  # words have none
        once = (
            2 * num_draws + doses + (OTHER_METHODS + 3) * num_others + 2
        )  # the last two are for the reverse direction
        times[measured] += (1 + num_tuned) * of_source[1] + once * some  # the first is without clamp
        return {split: number / len(self.frames[split]) for split, number in times.items()}

    def _answers(
        self, stage: str, part: str, model: Model, asked: Sequence["_Asked"], num_new: int, clips_per_batch: int
    ) -> StagePlan:
        """The answers that an evaluator needs from a model; each step of a batch reads all weights."""
        counted, num_layers = cost.model_cost(model.audio, model.text), model.text["num_hidden_layers"]
        size = counted.num_weights * _itemsize(model.dtype)
        num_clips, flops, traffic, gpu_s, cpu_s = 0.0, 0.0, 0.0, 0.0, 0.0
        for split, frames, prompt, times, prepared in asked:
            batches = model.num_text_tokens(prompt), clips_per_batch
            num_clips += times * len(frames)
            num_steps = times * math.ceil(len(frames) / clips_per_batch) * num_new
            read, answered = (
                times * counted.prefill_flops(frames, *batches),
                times * counted.answer_flops(frames, *batches, num_new),
            )
            steps_s = self.on.layers_s(answered - read, model.dtype) + self.on.streamed_s(num_steps * size)
            gpu_s += self.on.layers_s(read, model.dtype) + max(steps_s, num_steps * num_layers * machine.LAYER_S)
            cpu_s += prepared * self._preparing_s(split, model) * len(frames) / len(self.frames[split])
            flops, traffic = flops + answered, traffic + num_steps * size
        return StagePlan(
            stage,
            part,
            model.dtype,
            int(num_clips),
            int(num_clips * num_new),
            flops=int(flops),
            traffic_bytes=int(traffic),
            gpu_bytes=size,
            gpu_s=gpu_s,
            cpu_s=cpu_s,
        )


class _Asked(NamedTuple):
    """A question about the clips of a split: how often each is answered, and how often prepared for it, on average."""

    split: str
    frames: cost.PerClip
    prompt: str
    times: float = 1.0
    prepared: float = 1.0


def _work(preset: Preset, goals: Iterable[Goal]) -> list[Work]:
    """Return the work for the goals; without clips that have labels, that is the work of `ard run`."""
    for name in ("layer", "layers", "expansion", "expansions", "evaluation", "audio", "num_untrained"):
        preset.fact(name)
    return work(preset.facts, goals if preset.fact("evaluation") else (4, "concepts"))


def _itemsize(dtype: str) -> int:
    return getattr(torch, dtype).itemsize
