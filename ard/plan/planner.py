"""The stages of a preset, one after another, as a plan."""

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ard.plan import cost, machine
from ard.plan.answers import captions, hearing, steering
from ard.plan.faster import changes
from ard.plan.gpus import GPUS
from ard.plan.inputs import RATE_HZ, Preset, read_corpus
from ard.plan.machine import LOCAL_GB_S, Machine, resampling_s
from ard.plan.models import QWEN2_AUDIO, Model, only_hears, read_clap, read_model
from ard.plan.stages import Plan, StagePlan
from ard.plan.training import trainings
from ard.probing import SCORERS
from ard.steps import RAW, CellKey, Goal, Work, width, work
from ard.types import UserError

if TYPE_CHECKING:
    from ard.plan.encoders import EncoderModel

CLAP_WINDOW_S, CLAP_RATE_HZ = 10.0, 48_000


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
        self.model = None if self.encoder else self.dimensions(self.fact("model"))
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
            *trainings(self),
            *(self._probing(), *self._embedding()),
            *captions(self),
            *hearing(self),
            *(steering(self) if self.cells("steer") else []),
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

    def _splits(self, step: str) -> list[str]:
        return [one.split for one in self.work if one.step.name == step and one.split]

    def cells(self, step: str) -> list[CellKey]:
        """Return the cells of a step."""
        return [one.cell for one in self.work if one.step.name == step and one.cell]

    def layer_bytes(self, split: str) -> int:
        """Return the bytes of a layer, summed over its shards; each has the clips of one audio shard."""
        itemsize = cost.itemsize(self.store_dtype)
        in_shards = np.split(self.tokens[split], np.cumsum(self.corpora[split].shard_sizes)[:-1])
        return sum(cost.shard_bytes(tokens, self.d_in, itemsize) for tokens in in_shards)

    def dimensions(self, name: str) -> Model:
        """Return the dimensions of an AudioLLM, and note where they are from."""
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
        size, workers = num_weights * cost.itemsize(dtype), self.setting("extract", "ClipDataModule", "num_workers")
        return StagePlan(
            "extraction",
            split,
            dtype,
            len(tokens),
            int(tokens.sum()),
            flops=flops,
            gpu_bytes=size,
            gpu_s=self.on.layers_s(flops, dtype),
            cpu_s=self.preparing_s(split),
            processes=max(1, workers),
            read_bytes=self.corpora[split].num_bytes,
            written_bytes=len(self.layers) * self.layer_bytes(split),
            overlaps=workers > 0,
        )

    def preparing_s(self, split: str, model: Model | None = None) -> float:
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

    def _probing(self) -> StagePlan:
        """The cells of a step and a layer share a pass over the probing set; tests read the evaluation set too."""
        probe, *others = (int(self.tokens[split].sum()) for split in self.extracted if split != "made")
        read = {"test": probe + sum(others), "score": probe}
        passes: dict[tuple[str, int], list[int | str | None]] = {}
        for step in read:
            for layer, of in self.cells(step):
                passes.setdefault((step, layer), []).append(of)
        widths, p = {key: [width(of, self.d_in) for of in cells] for key, cells in passes.items()}, self.fact("p")
        lists = 8 + 4 + len(SCORERS) * 2 * p * (8 + 4)  # bytes per feature: counts and maxima, then ids and scores
        encoded = [
            read[step] * width(of, self.d_in) for (step, _), cells in passes.items() for of in cells if of not in RAW
        ]
        flops, traffic = cost.encoding_flops(self.d_in, sum(encoded)), 4 * machine.TOP_K_READS[4] * sum(encoded)
        num_tokens = sum(read[step] for step, _ in passes)
        read_bytes = num_tokens * self.d_in * cost.itemsize(self.store_dtype)
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


def _work(preset: Preset, goals: Iterable[Goal]) -> list[Work]:
    """Return the work for the goals; without clips that have labels, that is the work of `ard run`."""
    for name in ("layer", "layers", "expansion", "expansions", "evaluation", "audio", "num_untrained"):
        preset.fact(name)
    return work(preset.facts, goals if preset.fact("evaluation") else (4, "concepts"))
