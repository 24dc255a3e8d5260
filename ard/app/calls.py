"""The calls that give the answers of a page again, in Python and on the command line, and a record to keep."""

import shlex
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ard.app.clips import Chosen
from ard.app.steer import Asked, Setting
from ard.app.subject import Subject

PYTHON = """\
from pathlib import Path

from ard.audio import {reader}
from ard.audiollm import load_audiollm
from ard.representatives import read_maxima
from ard.run import Run
from ard.sae import load_dictionary
from ard.steering import steer

run = Run.load(Path({run!r}))
model, sae = load_audiollm({model}), load_dictionary(run.own.sae){device}
clip = {clip}
how = {{{how}}}
for clamp in {clamps}:
    with steer(model, sae, run.layer, clamp, maxima=read_maxima(run.own), **how):
        print(model.generate([clip], [{prompt!r}], {max_new_tokens})[0])
"""


def python_call(subject: Subject, chosen: Chosen, asked: Asked) -> str:
    """Return a program that prints the answer under each setting; a clip that was dropped is a file of its name."""
    run, device = subject.cell.run, str(subject.model.device)
    options = [repr(run.model), f"device={device!r}"]
    options += [f"{name}={run.facts[name]!r}" for name in ("layers_path", "window") if run.facts.get(name)]
    stored = f"next(StoredClips(Path({str(chosen.shards)!r}))([{chosen.clip.id!r}]))"
    return PYTHON.format(
        reader="StoredClips" if chosen.shards else "read_clip",
        run=str(run.folder),
        model=", ".join(options),
        device="" if device == "cpu" else f".to({device!r})",
        clip=stored if chosen.shards else f"read_clip(Path({chosen.clip.id!r}))",
        how=f'"keep_error": {asked.keep_error}, "positions": {asked.positions!r}, "phase": {asked.phase!r}',
        clamps=f"[{', '.join(map(repr, asked.settings))}]",
        prompt=asked.prompt,
        max_new_tokens=asked.max_new_tokens,
    )


def command_line(subject: Subject, chosen: Chosen, asked: Asked, setting: Setting) -> str:
    """Return the `ard steer` that prints the answer under one setting, beside those that it is compared with."""
    if not setting:
        return "# nothing is set: `ard steer` prints this answer beside every other one"
    words: dict[str, Any] = {"--run": _path(subject.cell.run.folder)}
    words["--audio"] = _path(chosen.shards or Path(chosen.clip.id))
    if chosen.shards:
        words["--clip"] = chosen.clip.id
    words |= {"--prompt": asked.prompt, "--feature": _listed(list(setting)), "--value": _listed(list(setting.values()))}
    words |= {"--unit": "max", "--positions": asked.positions, "--phase": asked.phase}
    words |= {"--keep_error": str(asked.keep_error).lower(), "--max_new_tokens": asked.max_new_tokens}
    words["--device"] = subject.model.device
    return " ".join(["ard steer", *(_option(name, str(value)) for name, value in words.items())])


def record(subject: Subject, chosen: Chosen, asked: Asked, answers: list[str]) -> dict[str, Any]:
    """Return all of it as JSON to keep: what was asked of what, the answers, and how to get them again."""
    cell = subject.cell
    settings = [
        {
            "features": [
                {"feature": feature, "name": subject.names.get(feature), "multiple_of_maximum": value}
                | {"value": value * float(subject.maxima[feature])}
                for feature, value in setting.items()
            ],
            "answer": text,
            "command_line": command_line(subject, chosen, asked, setting),
        }
        for setting, text in zip(asked.settings, answers[2:], strict=True)
    ]
    return {
        "run": str(cell.run.folder),
        "model": cell.run.model,
        "layer": cell.layer,
        "expansion": cell.expansion,
        "device": str(subject.model.device),
        "clip": chosen.clip.id,
        "audio_shards": None if chosen.shards is None else str(chosen.shards),
        "prompt": asked.prompt,
        "keep_error": asked.keep_error,
        "positions": asked.positions,
        "phase": asked.phase,
        "max_new_tokens": asked.max_new_tokens,
        "unsteered": answers[0],
        "passed_through": answers[1],
        "settings": settings,
        "python": python_call(subject, chosen, asked),
        "version": version("ard-audio"),
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _path(path: Path) -> str:
    """Return a path as a word of a command that is not taken for an option."""
    return f"./{path}" if str(path).startswith("-") else str(path)


def _option(name: str, value: str) -> str:
    return f"{name}{'=' if value.startswith('-') else ' '}{shlex.quote(value)}"


def _listed(values: list[Any]) -> str:
    return str(values[0]) if len(values) == 1 else str(values).replace(" ", "")
