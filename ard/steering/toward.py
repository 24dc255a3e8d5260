"""Features that steer towards words: those whose names say the same, or those that move the answer there."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from ard.audio import FolderClips, read_clips
from ard.audiollm import AudioLLM
from ard.console import Progress, at_work
from ard.embedding import load_clap
from ard.run import MANIFEST, Cell, Run
from ard.sae import Dictionary
from ard.steering.effects import Asked
from ard.steering.features import features_by_name
from ard.steering.interview import Procedure
from ard.steering.judge import ClassMatch
from ard.steering.roles import Role, alone, find_roles
from ard.steering.task import SteeringTask
from ard.types import Clip, UserError

SPLITS = ("steer-select", "steer")
"""Splits of a run with clips for steering; the first that is there is used."""


def task_between(run: Run, question: str, answers: str, concept: str | None = None) -> SteeringTask:
    """Return the task between two classes of answers, with the words of the run's own task if it has one.

    Args:
        run: the run.
        question: what is asked.
        answers: the classes as FROM,TO.
        concept: words that names are compared with; by default those of the run's task, or else the class TO.

    Raises:
        UserError: if the answers are not two classes.
    """
    classes = [name.strip() for name in answers.split(",")]
    if len(classes) != 2 or not all(classes) or classes[0] == classes[1]:
        raise UserError(f"answers {answers!r} are not two classes: give --answers FROM,TO, such as happy,angry")
    source, target = classes
    own = [task for task in _tasks(run) if task.prompt == question and {source, target} <= set(task.classes)]
    toward = {task.target: task.concept for task in own}
    concept = concept or toward.get(target, target)
    return SteeringTask(source, target, question, own[0].classes if own else classes, concept)


def task_toward(run: Run, concept: str, question: str) -> SteeringTask:
    """Return the run's own task towards a concept; of several, the one that asks the question.

    Raises:
        UserError: if there is none, or more than one.
    """
    own = [task for task in _tasks(run) if task.concept == concept]
    own = own if len(own) == 1 else [task for task in own if task.prompt == question]
    if len(own) != 1:
        how_many = f"{len(own)} tasks ({', '.join(task.name for task in own)})" if own else "no task"
        raise UserError(
            f"the run has {how_many} towards {concept!r}, so it is not known which answers features should turn: give "
            "--answers FROM,TO, two classes of answers to the question, such as happy,angry"
        )
    return own[0]


def steering_clips(run: Run, audio: Path | None = None) -> list[Clip]:
    """Read the clips of a folder of sounds or of audio shards; by default those of the run that are for steering.

    Raises:
        UserError: if there are none.
    """
    if audio is None:
        audio = next((run.audio(split) for split in SPLITS if run.audio(split) in run.audio_splits), None)
        if audio is None:
            raise UserError(
                f"{str(run.folder)!r} has no clips for steering to measure effects on: give `ard effects` a folder of "
                "sounds as --audio"
            )
    found = read_clips(audio) if (audio / MANIFEST).is_file() else FolderClips(audio)
    clips = [clip for clip in found if isinstance(clip, Clip)]
    if not clips:
        raise UserError(f"{str(audio)!r} holds no sound that can be read: give another folder of sounds")
    return clips


def unsteered_answers(
    model: AudioLLM, clips: Sequence[Clip], task: SteeringTask, clips_per_batch: int, max_new_tokens: int
) -> list[str]:
    """Ask the model as it is.

    Raises:
        UserError: if no answer states the task's source.
    """
    answers: list[str] = []
    with Progress("answers", len(clips)) as progress:
        for start in range(0, len(clips), clips_per_batch):
            group = clips[start : start + clips_per_batch]
            answers += model.generate(group, [task.prompt] * len(group), max_new_tokens)
            progress.advance(len(group))
    stated = ClassMatch(task.question.classes)(answers)
    if task.source not in stated:
        counts = ", ".join(f"{name or 'no class'} {count}" for name, count in Counter(stated).most_common())
        raise UserError(
            f"none of {len(clips)} clips is answered {task.source!r} ({counts}): give other --answers, "
            "or `ard effects` other clips as --audio"
        )
    return answers


def closest_names(cell: Cell, concept: str) -> list[int] | None:
    """Return the named features, the closest names first; None where there are no names, or no CLAP to compare them."""
    clap = cell.run.facts.get("clap")
    if clap is None or not cell.path("names").is_file():
        return None
    return [found.feature for found in features_by_name(cell, concept, load_clap(clap)).features]


def features_toward(cell: Cell, concept: str, num_features: int) -> list[int]:
    """Return the features whose names are closest to words.

    Raises:
        UserError: if fewer have a name, or names cannot be compared.
    """
    named = closest_names(cell, concept)
    if named is None:
        raise UserError(
            f"{cell.name} has no names, or its run no CLAP model to compare them with {concept!r}: give features by "
            "--feature"
        )
    if len(named) < num_features:
        raise UserError(
            f"num_features {num_features} is more than the {len(named)} features of {cell.name} that have a name: give "
            "fewer"
        )
    return named[:num_features]


def features_moving(
    model: AudioLLM,
    coder: Dictionary,
    cell: Cell,
    task: SteeringTask,
    num_features: int,
    *,
    maxima: Float[Tensor, " features"],
    procedure: Procedure,
    most_clips: int = 32,
) -> list[Role]:
    """Return the features that move a task's answer furthest towards its target, each set to its maximum.

    It is measured on the run's clips for steering. The candidates are those of :func:`~ard.steering.find_roles`.

    Raises:
        UserError: if fewer features move the answer there, or no clip is answered with the source.
    """
    clips = steering_clips(cell.run)
    answers = unsteered_answers(model, clips, task, procedure.clips_per_batch, procedure.max_new_tokens)
    with at_work("measuring effects"):
        roles = find_roles(
            alone(model, coder, cell.layer),
            Asked(task, clips, answers, procedure),
            by_name=closest_names(cell, task.concept) or [],
            values={feature: most for feature, most in enumerate(maxima.tolist()) if most},
            names={},
            most_clips=most_clips,
            seed=cell.run.seed,
        )
    moving = [role for role in roles if role.effect > 0]
    if len(moving) < num_features:
        raise UserError(
            f"num_features {num_features} is more than the {len(moving)} of {len(roles)} candidates that move the "
            f"answer from {task.source!r} towards {task.target!r}: give fewer"
        )
    return moving[:num_features]


def _tasks(run: Run) -> list[SteeringTask]:
    return [SteeringTask(**task) for task in run.facts.get("tasks", ())]
