"""What models answer and hear in a run, as stages of a plan: captions, hearing or reading, steering."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ard.classes import import_class
from ard.evaluation.hearing import CONDITIONS
from ard.naming import CAPTION_PROMPT
from ard.plan import cost, machine
from ard.plan.inputs import DEFAULTS
from ard.plan.models import Model, only_hears
from ard.plan.stages import StagePlan
from ard.probing import SCORERS
from ard.steps import width

if TYPE_CHECKING:
    from ard.plan.planner import Planner

OTHER_METHODS = 4
"""Baselines of Table 3 that need no dictionary: three directions, and words in the question."""


def captions(planner: "Planner") -> list[StagePlan]:
    """Each representative of a selected feature is captioned once, for all methods: at most the probing set."""
    if not planner.cells("test") or not _has_captions(planner):
        return []
    captioner = planner.setting("test", "NameConcepts", "audiollm")
    if captioner is None or only_hears(planner.preset, captioner):
        planner.assumptions.append("no captions: nothing in the preset answers")
        return []
    num_draws = planner.setting("test", "ScoreMonosemanticity", "num_draws")
    num_names = 0
    for layer, of in planner.cells("test"):
        num_features = width(of, planner.d_in)
        num_selected = min(planner.fact("num_selected") or num_features, num_features)
        with_baselines = isinstance(of, int) and layer == planner.fact("layer") and planner.fact("baselines")
        num_names += num_selected * (len(SCORERS) + num_draws if with_baselines else 1)
    most = {"probe": num_names * planner.fact("p")}
    if "eval" in planner.frames and planner.fact("baselines"):
        most["eval"] = planner.setting("test", "NameConcepts", "num_evaluation_clips")
    asked = [_Asked(split, planner.frames[split][:number], CAPTION_PROMPT) for split, number in most.items()]
    num_captions = sum(len(one.frames) for one in asked)
    planner.assumptions.append(f"at most {num_captions:,} clips are captioned, all captions at the greatest length")
    if planner.setting("test", "NameConcepts", "namer") is not None:
        planner.assumptions.append(
            f"at most {num_names:,} names are made by a language model elsewhere, which is not counted here"
        )
    settings = (planner.setting("test", "NameConcepts", x) for x in ("max_new_tokens", "clips_per_batch"))
    return [_answers(planner, "captions", "representatives", planner.dimensions(captioner), asked, *settings)]


def _has_captions(planner: "Planner") -> bool:
    """Return whether the namer needs captions, as the default one does."""
    namer = planner.setting("test", "NameConcepts", "namer")
    if planner.setting("test", "NameConcepts", "captioner") is not None:
        planner.assumptions.append("captions are made by a language model elsewhere, which is not counted here")
        return False
    return namer is None or "captions" in import_class(namer["class_path"]).needs  # type: ignore[attr-defined]


def hearing(planner: "Planner") -> list[StagePlan]:
    """The prompts of every pair of every concept; those that concepts of one name share are counted for each."""
    listed = [one["class_path"].rpartition(".")[2] for one in planner.fact("test")["trainer"]["callbacks"]]
    if "HearOrRead" not in listed or planner.model is None or not planner.cells("test"):
        return []
    wanted, num_pairs = (planner.setting("test", "HearOrRead", name) for name in ("num_concepts", "num_pairs"))
    most = planner.fact("num_selected") or planner.d_in * planner.fact("expansion")
    num_prompts = len(CONDITIONS) * num_pairs * min(wanted or most, most)
    frames = np.resize(planner.frames["eval" if "eval" in planner.extracted else "probe"], num_prompts)
    counted = cost.model_cost(planner.model.audio, planner.model.text, planner.fact("layer"))
    flops = counted.prefill_flops(frames, planner.model.num_text_tokens("This is the sound of something named."))
    planner.assumptions.append(f"hearing or reading: {num_prompts:,} prompts, as if no two concepts shared a name")
    return [
        StagePlan(
            "hearing or reading",
            "own cell",
            planner.model.dtype,
            num_prompts,
            flops=flops,
            gpu_bytes=counted.num_weights * cost.itemsize(planner.model.dtype),
            gpu_s=planner.on.layers_s(flops, planner.model.dtype),
            cpu_s=num_prompts * (machine.MEL_S * planner.model.audio["max_source_positions"] / 50 + machine.PROMPT_S),
        )
    ]


def steering(planner: "Planner", clips_per_batch: int | None = None) -> list[StagePlan]:
    """For each task, all clips are answered unsteered, and those of the source class in every trial and control.

    Each dictionary has the clips of the source class prepared once, for all that is tried with it.
    """
    if not planner.tasks or planner.model is None:
        reason = "the preset has no tasks" if planner.model else "an encoder answers nothing"
        planner.assumptions.append(f"no steering: {reason}")
        return []
    planner.assumptions.append(
        "steering: classes have equal shares of the answers; answers that tasks share count once; perplexity, "
        "effects, captions, forecasts and what conditions of the same prompts share below the layer are left out"
    )
    asked = [
        _Asked(split, planner.frames[split], prompt)
        for split, prompt in dict.fromkeys(
            (split, task["prompt"]) for task in planner.tasks for split in _splits_of(planner, task)
        )
    ]
    for task in planner.tasks:
        prepared = len(planner.cells("steer")) / len(task["classes"])
        for split, times in _times_steered(planner, task).items():
            asked.append(_Asked(split, planner.frames[split], task["prompt"], times, prepared))
    num_new, batch = (planner.setting("steer", "MeasureSteering", x) for x in ("max_new_tokens", "clips_per_batch"))
    part = f"{len(planner.tasks)} tasks"
    return [_answers(planner, "steering", part, planner.model, asked, num_new, clips_per_batch or batch)]


def _splits_of(planner: "Planner", task: Mapping[str, Any]) -> list[str]:
    """Return the splits of a task: the one to choose on, if it is a separate one, and the one to measure on."""
    folders = [planner.setting("steer", "MeasureSteering", "selection")]
    folders.append(task.get("audio") or planner.setting("steer", "MeasureSteering", "audio"))
    return [Path(folder).name for folder in folders if folder]


def _times_steered(planner: "Planner", task: Mapping[str, Any]) -> dict[str, float]:
    """Return how often on average a clip of each split is answered under a clamp, of SAE and of coordinates."""
    design = {**DEFAULTS["Design"], **planner.setting("steer", "MeasureSteering", "design")}
    *others, measured = splits = _splits_of(planner, task)
    share = planner.setting("steer", "MeasureSteering", "selection_share")
    parts = [1.0, 1.0] if others else [share, 1 - share]
    counts = [part * len(planner.frames[split]) for part, split in zip(parts, (splits[0], measured), strict=True)]
    of_source = [count / len(task["classes"]) for count in counts]
    chosen, some = (min(count, design["most_clips"] or count) for count in of_source)
    num_others = len({other["prompt"] for other in planner.tasks} - {task["prompt"]})
    cells, times = planner.cells("steer"), dict.fromkeys(splits, 0.0)
    num_settings, num_draws = len(design["num_features"]) * len(design["multiples"]), design["num_draws"]
    num_tuned = 2 * len(cells) + OTHER_METHODS  # of each dictionary by names and by effect
    num_draws *= sum(isinstance(of, int) or str(of).endswith("untrained-0") for _, of in cells)  # ranked among them
    times[splits[0]] += (num_tuned + num_draws) * num_settings * chosen
    doses = (OTHER_METHODS + 1) * (2 + len(design["doses"])) * (1 + num_others)  # words have none
    once = 2 * num_draws + doses + (OTHER_METHODS + 3) * num_others + 2  # the last two are for the reverse direction
    times[measured] += (1 + num_tuned) * of_source[1] + once * some  # the first is without clamp
    return {split: number / len(planner.frames[split]) for split, number in times.items()}


def _answers(
    planner: "Planner",
    stage: str,
    part: str,
    model: Model,
    asked: Sequence["_Asked"],
    num_new: int,
    clips_per_batch: int,
) -> StagePlan:
    """The answers that an evaluator needs from a model; each step of a batch reads all weights."""
    counted, num_layers = cost.model_cost(model.audio, model.text), model.text["num_hidden_layers"]
    size = counted.num_weights * cost.itemsize(model.dtype)
    num_clips, flops, traffic, gpu_s, cpu_s = 0.0, 0.0, 0.0, 0.0, 0.0
    for split, frames, prompt, times, prepared in asked:
        batches = model.num_text_tokens(prompt), clips_per_batch
        num_clips += times * len(frames)
        num_steps = times * math.ceil(len(frames) / clips_per_batch) * num_new
        read, answered = (
            times * counted.prefill_flops(frames, *batches),
            times * counted.answer_flops(frames, *batches, num_new),
        )
        steps_s = planner.on.layers_s(answered - read, model.dtype) + planner.on.streamed_s(num_steps * size)
        gpu_s += planner.on.layers_s(read, model.dtype) + max(steps_s, num_steps * num_layers * machine.LAYER_S)
        cpu_s += prepared * planner.preparing_s(split, model) * len(frames) / len(planner.frames[split])
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
