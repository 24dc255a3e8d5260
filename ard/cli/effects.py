"""`ard effects`: what features do to an answer, and what they hear of it."""

import math
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ard.audiollm import load_audiollm, usable_device
from ard.console import at_work, console
from ard.reports import shown_names
from ard.representatives import read_maxima
from ard.run import Run
from ard.sae import load_dictionary
from ard.steering import Asked, Phase, Procedure, Role, SteeringTask, Where, alone, clamp_values, find_roles
from ard.steering.toward import closest_names, steering_clips, task_between, unsteered_answers
from ard.types import UserError


def effects(
    run: Path,
    question: str,
    answers: str,
    *,
    features: int | list[int] | None = None,
    audio: Path | None = None,
    concept: str | None = None,
    multiple: float = 1.0,
    most: int = 20,
    most_clips: int = 32,
    layer: int | None = None,
    expansion: int | None = None,
    positions: Where = "audio",
    phase: Phase = "prefill",
    rows_per_batch: int = 64,
    max_new_tokens: int = 16,
    device: str | None = None,
) -> None:
    """List features by how far setting them moves the answer from one class to another, with how well they hear it.

    Args:
        run: the run's folder.
        question: what is asked about every clip.
        answers: two classes of answers as FROM,TO: `happy,angry` lists first what turns happy into angry. If the run
            has a task with this question and these classes, its words are used.
        features: the features by their numbers, as [12,40]; by default those with the closest names, and those whose
            activity tells the classes apart best.
        audio: a folder of sound files or of audio shards; by default the run's own clips for steering.
        concept: words that names are compared with; by default those of the run's task, or else the class TO.
        multiple: the value that a feature is set to, as a multiple of its maximum on the probing set.
        most: most features by name, and as many by activity.
        most_clips: most clips, of those that are answered FROM, to measure effects on.
        layer: layer of the dictionary, if not the run's own.
        expansion: expansion of the dictionary, if not the run's own.
        positions: where in the prompt features are set.
        phase: set them in the prompt, or in the beginning of the answer too.
        rows_per_batch: most clips, each with a feature set, in one forward pass.
        max_new_tokens: most tokens of an unsteered answer.
        device: what runs the model, such as ``cpu`` or ``cuda:1``; by default a GPU if there is one.
    """
    opened = Run.load(run)
    cell = opened.cell(opened.layer if layer is None else layer, opened.expansion if expansion is None else expansion)
    task = task_between(opened, question, answers, concept)
    coder, maxima, names = load_dictionary(cell.sae), read_maxima(cell), shown_names(cell)
    if min(most, most_clips, rows_per_batch, max_new_tokens) < 1:
        raise UserError(
            f"most {most}, most_clips {most_clips}, rows_per_batch {rows_per_batch}, max_new_tokens {max_new_tokens}: "
            "give at least 1 of each"
        )
    requested = features if isinstance(features, list) else [] if features is None else [features]
    for feature in requested:
        clamp_values(coder, {feature: multiple}, maxima)
    clips = steering_clips(opened, audio)
    device = usable_device(device)
    model = load_audiollm(opened.model, device=device, layers_path=opened.facts.get("layers_path"))
    said = unsteered_answers(model, clips, task, rows_per_batch, max_new_tokens)
    by_name = [] if requested else closest_names(cell, task.concept)
    if by_name is None:
        console.print("no names are compared, since the run has none, or no CLAP model")
    with at_work("measuring effects"):
        roles = find_roles(
            alone(model, coder.to(device), cell.layer),
            Asked(task, clips, said, Procedure(positions, phase, clips_per_batch=rows_per_batch)),
            by_name=by_name or [],
            values={
                feature: multiple * float(most_active) for feature, most_active in enumerate(maxima) if most_active
            },
            names=names,
            most=most,
            most_clips=most_clips,
            requested=requested,
            seed=opened.seed,
        )
    if not roles:
        raise UserError(f"no feature of {cell.name} has a name or tells the classes apart: give --features")
    Console().print(_table(roles, task))


def _table(roles: Sequence[Role], task: SteeringTask) -> Table:
    """Return a line for each feature, the largest effect towards the target first."""
    first = roles[0]
    caption = (
        f"effect: change of the log-odds of {task.target!r} against {task.source!r} per unit of norm, with 95 % of "
        f"{first.num_clips} clips answered {task.source!r}; as many random directions reach "
        f"{first.effect_by_chance:.3f} either way. AUROC: above .5 the feature is more active on {task.target!r}"
        f"{'; – where no clips of the two differ' if any(math.isnan(role.q_value) for role in roles) else ''}."
    )
    table = Table(box=None, pad_edge=False, expand=True, caption=escape(caption), caption_justify="left")
    table.add_column("feature", justify="right")
    table.add_column("name", ratio=1)
    table.add_column("kind", no_wrap=True)
    for head in ("effect", "95 %", "AUROC", "output", "lens"):
        table.add_column(head, justify="right", no_wrap=True)
    for role in roles:
        interval = f"{role.effect_low:+.3f} {role.effect_high:+.3f}"
        numbers = (
            f"{role.effect:+.3f}",
            interval,
            "–" if math.isnan(role.q_value) else f"{role.auroc:.2f}",
            f"{role.output_score:.3f}",
            f"{role.lens:+.1f}",
        )
        table.add_row(str(role.feature), escape(role.name or "–"), role.kind, *numbers)
    return table
