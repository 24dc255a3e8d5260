"""`ard steer`: ask the model a question, without and with features set or a direction added."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from ard.audio import FolderClips, StoredClips, read_audio_manifest, read_clip, read_clips
from ard.audio.paths import printable
from ard.audiollm import AudioLLM, load_audiollm, usable_device
from ard.console import Progress, console, say_failures
from ard.reports import concept_names, find_feature, shown_names
from ard.representatives import read_maxima
from ard.run import MANIFEST, Run
from ard.sae import Dictionary, load_dictionary
from ard.steering import Phase, Procedure, SteeringTask, Where
from ard.steering.compare import (
    SAE_ALONE,
    WITHOUT,
    Answer,
    Change,
    Sheet,
    Value,
    compare_answers,
    direction_added,
    features_set,
)
from ard.steering.directions import read_direction
from ard.steering.toward import features_moving, features_toward, task_between, task_toward
from ard.types import Clip, Failure, UserError


def steer(
    run: Path,
    audio: list[Path],
    prompt: str,
    *,
    clip: str | None = None,
    feature: int | list[int] | None = None,
    name: str | None = None,
    toward: str | None = None,
    by: Literal["name", "effect"] = "name",
    answers: str | None = None,
    num_features: int = 1,
    add: str | None = None,
    value: float | list[float] | None = None,
    sweep: list[float] | None = None,
    unit: Literal["absolute", "max"] | None = None,
    csv: Path | None = None,
    layer: int | None = None,
    expansion: int | None = None,
    positions: Where = "all",
    phase: Phase = "prefill",
    keep_error: bool = False,
    max_new_tokens: int = 64,
    clips_per_batch: int = 8,
    device: str | None = None,
    dry_run: bool = False,
) -> None:
    """Ask the run's model about clips without and with features set, or a direction added, and print the answers.

    What is set is given by one of ``feature``, ``name``, ``toward`` and ``add``; how strongly, by ``value`` or
    ``sweep``.

    Args:
        run: the run's folder.
        audio: the clips: sound files, folders of them, folders of audio shards.
        prompt: the question.
        clip: of one folder of audio shards, only the clip with this id.
        feature: the feature by its number, or several as [12,40].
        name: the feature by its name, instead of its number.
        toward: words to steer towards, such as "speaking in an angry voice".
        by: which features steer towards these words: those with the closest names, or those that move the answer
            furthest.
        answers: two classes of answers as FROM,TO, such as happy,angry, for ``by effect``; by default those of the
            run's own task towards these words.
        num_features: how many features steer towards these words.
        add: a direction to add, FILE.safetensors, or FILE.safetensors:NAME if the file has several.
        value: the value to set features to, 0 or more; a list has one for each feature. Of a direction, its multiple.
        sweep: several values, one after the other, each for all features.
        unit: ``max`` makes a value of 1 each feature's maximum on the probing set. By default so if features are chosen
            by ``toward``, else ``absolute``.
        csv: write the answers to this new file: clip, prompt, setting, dose, answer. A command that was stopped goes on
            when it is given again.
        layer: layer of the dictionary, or of the direction, if not the run's own.
        expansion: expansion of the dictionary, if not the run's own.
        positions: where in the prompt features are set.
        phase: set them in the prompt, or at every token of the answer too.
        keep_error: only add the change that the features make, instead of passing on the SAE's reconstruction.
        max_new_tokens: most tokens of an answer.
        clips_per_batch: clips answered at once.
        device: what runs the model, such as ``cpu`` or ``cuda:1``; by default a GPU if there is one.
        dry_run: say how many answers that will be, and load no model that answers.
    """
    opened = Run.load(run)
    cell = opened.cell(opened.layer if layer is None else layer, opened.expansion if expansion is None else expansion)
    _check([feature, name, toward, add], by if toward is not None else "name", answers)
    doses = _doses(value, sweep)
    if min(max_new_tokens, clips_per_batch, num_features) < 1:
        raise UserError(
            f"{max_new_tokens} new tokens, {clips_per_batch} clips a batch, {num_features} features: give at least 1 "
            "token, 1 clip and 1 feature"
        )
    if csv is not None and not csv.parent.is_dir():
        raise UserError(f"csv {str(csv)!r} cannot be written: give a file in a folder that exists")
    if csv is not None and csv.exists():
        raise UserError(f"csv {str(csv)!r} exists: give another file, or delete it")
    coder: Dictionary | None = None
    task: SteeringTask | None = None
    changes: list[Change] = []
    if add is not None:
        if unit is not None:
            raise UserError(f"unit {unit!r} is for features: leave it out where a direction is added")
        changes = direction_added(add, read_direction(add, cell.layer), doses)
    else:
        coder, maxima, names = load_dictionary(cell.sae), read_maxima(cell), concept_names(cell)
        in_maxima = unit == "max" or (unit is None and toward is not None)
        set_to = partial(features_set, coder, values=doses, maxima=maxima if in_maxima else None, names=names)
        if toward is None:
            chosen = feature if feature is not None else find_feature(names, str(name))
            changes = set_to(chosen if isinstance(chosen, list) else [chosen])
        elif by == "name":
            changes = set_to(features_toward(cell, toward, num_features))
        else:
            features_set(coder, range(num_features), doses)  # refuses values before any effect is measured
            task = task_between(opened, prompt, answers, toward) if answers else task_toward(opened, toward, prompt)
    beside = [WITHOUT] if coder is None or keep_error else [WITHOUT, SAE_ALONE]
    sounds, each = _Sounds(audio, clip), len(beside) + len(doses)
    if dry_run:
        _show(f"{len(sounds) * each} answers: {each} to each of {len(sounds)} clips, of which {len(doses)} are steered")
        return
    device = usable_device(device)
    model = load_audiollm(opened.model, device=device, layers_path=opened.facts.get("layers_path"))
    model.check_answers()
    if coder is not None:
        coder = coder.to(device)
        if task is not None:
            moving = features_moving(
                model,
                coder,
                cell,
                task,
                num_features,
                maxima=maxima,
                procedure=Procedure(positions, phase, max_new_tokens=max_new_tokens),
            )
            changes = set_to([role.feature for role in moving])
        shown = shown_names(cell)
        for one in changes[0].clamp or ():
            values = ", ".join(f"{change.clamp[one]:g}" for change in changes if change.clamp is not None)
            _show(f"feature {one} ({shown.get(one, 'no name')}): {values}, maximum {maxima[one]:g}")
    how: dict[str, Any] = {
        "positions": positions,
        "phase": phase,
        "keep_error": keep_error,
        "max_new_tokens": max_new_tokens,
    }
    settings, clips = [*beside, *changes], sounds.heard_by(model)
    with Progress("answers", len(sounds) * each, "answers") as progress:
        sheet = None
        if csv is not None:
            weights = None if coder is None else coder.fingerprint()
            about = {"model": model.name, "weights": weights, "layer": cell.layer, "prompt": prompt, **how}
            sheet = Sheet(csv, settings, about)
            clips = sheet.missing(clips, lambda: progress.advance(each))
        for of_clip in compare_answers(
            model, coder, cell.layer, settings, clips, prompt, clips_per_batch=clips_per_batch, **how
        ):
            progress.advance(len(of_clip))
            if sheet is None:
                _show_answers(of_clip, several_clips=len(sounds) > 1, several_doses=len(doses) > 1)
            else:
                sheet.keep(of_clip)
    say_failures(sounds.failures)
    if not sounds.num_heard:
        raise UserError(f"none of {len(sounds)} sounds can be used: give others as --audio")
    if sheet is not None:
        _show(f"{sheet.write()} answers are in {csv}")


def _check(ways: Sequence[object], by: str, answers: str | None) -> None:
    """Refuse options that do not go together."""
    if sum(way is not None for way in ways) != 1:
        raise UserError("which feature? Give either --feature, its number, or --name, or words as --toward, or --add")
    if answers is not None and by != "effect":
        raise UserError(f"answers {answers!r} are for --toward WORDS --by effect: leave them out, or choose so")


def _doses(value: Value | None, sweep: list[float] | None) -> Sequence[Value]:
    """Return what features are set to, one after the other."""
    if (value is None) == (not sweep):
        raise UserError("how strongly? Give either --value, or several as --sweep, such as [0.5,1,2,4]")
    return [value] if value is not None else sweep or ()


def _show(line: str) -> None:
    Console().print(line, markup=False, highlight=False, soft_wrap=True)


def _show_answers(answers: Sequence[Answer], *, several_clips: bool, several_doses: bool) -> None:
    """Show the answers about one clip."""
    if several_clips:
        _show(answers[0].clip)
    for answer in answers:
        steered = f"with {answer.dose}" if several_doses else "with"
        _show(f"{'  ' * several_clips}{steered if answer.dose else answer.setting}: {answer.answer}")


class _Sounds:
    """Iterate over the clips of files and folders; what of them cannot be used is kept in ``failures``.

    ``num_heard`` counts those that a model was given.

    A lone file that cannot be used is refused, and so is the one clip of shards that is asked for.
    """

    def __init__(self, paths: Sequence[Path], clip_id: str | None = None) -> None:
        self.failures: list[Failure] = []
        self.num_heard = 0
        self._lone = read_clip(paths[0]) if len(paths) == 1 and not paths[0].is_dir() else None
        if clip_id is not None:
            self._lone = _stored(paths, clip_id)
        self._shards = {path: read_audio_manifest(path) for path in paths if (path / MANIFEST).is_file()}
        self._folders = {} if self._lone else {path: FolderClips(path) for path in paths if path not in self._shards}
        self._paths = paths

    def heard_by(self, model: AudioLLM) -> Iterator[Clip]:
        """Say of which clips only the beginning is heard, and count them all."""
        for clip in self:
            if clip.duration_s > model.prompter.window_s:
                console.print(f"only the first {model.prompter.window_s:g} s of {clip.id!r} are heard", markup=False)
            self.num_heard += 1
            yield clip

    def __len__(self) -> int:
        in_shards = sum(manifest.num_clips for manifest in self._shards.values())
        return 1 if self._lone else in_shards + sum(map(len, self._folders.values()))

    def __iter__(self) -> Iterator[Clip]:
        if self._lone:
            yield self._lone
            return
        for path in self._paths:
            for one in read_clips(path) if path in self._shards else self._folders[path]:
                if isinstance(one, Failure):
                    self.failures.append(one)
                elif len(self._paths) == 1:
                    yield one
                else:
                    yield replace(one, id=printable(f"{path}/{one.id}" if path.is_dir() else str(path)))


def _stored(paths: Sequence[Path], clip_id: str) -> Clip:
    """Read one clip of a folder of audio shards."""
    if len(paths) != 1 or not (paths[0] / MANIFEST).is_file():
        raise UserError(f"clip {clip_id!r} is looked for in one folder of audio shards: give one as --audio")
    stored = StoredClips(paths[0])
    clip = next(stored([clip_id]), None) if clip_id in stored.durations_s else None
    if clip is None:
        raise UserError(f"{str(paths[0])!r} holds no clip {clip_id!r} that can be used: give the id of one as --clip")
    return clip
