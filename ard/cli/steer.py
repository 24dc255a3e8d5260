"""`ard steer`: ask the model a question, without and with features set."""

from pathlib import Path
from typing import Literal

import torch
from rich.console import Console

from ard.audio import read_clip
from ard.audiollm import load_audiollm
from ard.console import console
from ard.reports import concept_names, find_feature
from ard.representatives import read_maxima
from ard.run import Run
from ard.sae import load_dictionary
from ard.steering import Phase, Where, clamp_values, compare_answers
from ard.types import UserError


def steer(
    run: Path,
    audio: Path,
    value: float | list[float],
    prompt: str,
    *,
    feature: int | list[int] | None = None,
    name: str | None = None,
    unit: Literal["absolute", "max"] = "absolute",
    layer: int | None = None,
    expansion: int | None = None,
    positions: Where = "all",
    phase: Phase = "prefill",
    keep_error: bool = False,
    max_new_tokens: int = 64,
    device: str | None = None,
) -> None:
    """Ask the run's model about a clip without and with features set to a value, and print the answers.

    Args:
        run: the run's folder.
        audio: the clip, a sound file.
        value: the value to set the feature to, 0 or more; a list has one for each feature.
        prompt: the question.
        feature: the feature by its number, or several as [12,40].
        name: the feature by its name, instead of its number.
        unit: `max` makes a value of 1 the feature's maximum on the probing set.
        layer: layer of the dictionary, if not the run's own.
        expansion: expansion of the dictionary, if not the run's own.
        positions: where in the prompt features are set.
        phase: set them in the prompt, or at every token of the answer too.
        keep_error: only add the change that the features make, instead of passing on the SAE's reconstruction.
        max_new_tokens: most tokens of an answer.
        device: what runs the model, such as ``cpu`` or ``cuda:1``; by default a GPU if there is one.
    """
    opened = Run.load(run)
    cell = opened.cell(opened.layer if layer is None else layer, opened.expansion if expansion is None else expansion)
    sae, maxima, names = load_dictionary(cell.sae), read_maxima(cell), concept_names(cell)
    if (feature is None) == (name is None):
        raise UserError("which feature? Give either --feature, its number, or --name")
    chosen = feature if feature is not None else find_feature(names, str(name))
    features = chosen if isinstance(chosen, list) else [chosen]
    if len(set(features)) < len(features) or max_new_tokens < 1:
        raise UserError(
            f"features {features}, {max_new_tokens} new tokens: give every feature once, and at least 1 token"
        )
    values = value if isinstance(value, list) else [value] * len(features)
    if len(values) != len(features):
        raise UserError(f"{len(values)} values are given for {len(features)} features: give one for all, or one each")
    clamp = clamp_values(sae, dict(zip(features, values, strict=True)), maxima if unit == "max" else None)
    device = usable(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    clip = read_clip(audio)
    model = load_audiollm(opened.model, device=device, layers_path=opened.facts.get("layers_path"))
    model.check_answers()
    if clip.duration_s > model.prompter.window_s:
        console.print(f"only the first {model.prompter.window_s:g} s of {audio.name!r} are heard", markup=False)
    answers = compare_answers(
        model,
        sae.to(device),
        cell.layer,
        clamp,
        clip,
        prompt,
        positions=positions,
        phase=phase,
        keep_error=keep_error,
        max_new_tokens=max_new_tokens,
    )
    settings = [f"feature {f} ({names.get(f, 'no name')}): {v:g}, maximum {maxima[f]:g}" for f, v in clamp.items()]
    for line in [*settings, *(f"{how}: {answer}" for how, answer in answers.items())]:
        Console().print(line, markup=False, highlight=False, soft_wrap=True)


def usable(device: str) -> str:
    """Return a device that is there."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {device!r} is not there: give cpu, or a GPU that torch sees, as cuda:0") from error
    return device
