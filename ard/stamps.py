"""Stamps record the settings with which a step was done, so that done means done with these settings."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ard.results import write_json

NO_EFFECT = {
    "num_workers",
    "cache",
    "concurrency",
    "base_url",
    "timeout_s",
    "max_retries",
    "verbose",
    "logger",
    "plugins",
    "devices",
    "num_nodes",
    "accelerator",
    "strategy",
    "log_every_n_steps",
    "enable_progress_bar",
    "enable_model_summary",
    "enable_checkpointing",
    "default_root_dir",
}
"""Settings that cannot change a result, wherever they occur."""

READ = {"vocabulary", "pairs"}
"""Settings that may be the path of a file that people edit: what is in it counts too."""

KEEPERS = ("ModelCheckpoint", "SaveSAE", "SaveWhenStopped", "ActivationWriter", "LogTraining")
"""Callbacks that only store or log what others compute."""


ADDED: Mapping[str, Any] = {"model.tokens": "audio"}
"""Settings that earlier versions did not have, with what these did: with this value, they change nothing."""


class Stamp(NamedTuple):
    """The settings of a step, by dotted name, and the stamp digests of the steps that it needs, by name.

    ``results`` are those that an evaluator has left: none if it found nothing to put into one, and None if an earlier
    version, which did not say, was at work.
    """

    settings: Mapping[str, Any]
    needs: Mapping[str, str | None]
    results: Sequence[str] | None = ()

    @property
    def digest(self) -> str:
        """A hash of settings and needs."""
        written = json.dumps([dict(self.settings), dict(self.needs)], sort_keys=True)
        return hashlib.sha256(written.encode()).hexdigest()[:16]

    def differences(self, now: "Stamp") -> list[str]:
        """List the settings that differ now; only if none does, list the needed steps that differ.

        A needed step whose digest is not known yet (None) never counts as different.
        """
        settings = [
            f"{name} changed from {_shown(self.settings, name)} to {_shown(now.settings, name)}"
            for name in sorted(self.settings.keys() | now.settings.keys())
            if self.settings.get(name, ...) != now.settings.get(name, ...)
        ]
        needs = [
            f"{name} has changed"
            for name in sorted(self.needs.keys() | now.needs.keys())
            if now.needs.get(name, "") is not None and self.needs.get(name) != now.needs.get(name)
        ]
        return settings or needs


def write_stamp(path: Path, stamp: Stamp) -> None:
    """Write a stamp, the last file that a step writes."""
    write_json(path, stamp._asdict())


def read_stamp(path: Path) -> Stamp | None:
    """Read a stamp; None if there is none or it cannot be read."""
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        return Stamp(saved["settings"], saved["needs"], tuple(saved["results"]) if "results" in saved else None)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def settings_of(config: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Return those settings of a resolved YAML file, or a part of it, that can change a result, by dotted name.

    Callbacks are listed by class. The run's own folder is replaced in paths, so that it can be moved.
    """
    return {name: value for name, value in _flat(config, (), str(out)) if name not in ADDED or value != ADDED[name]}


def _flat(value: Any, name: tuple[str, ...], out: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key not in NO_EFFECT:
                yield from _flat(item, name if key == "init_args" else (*name, str(key)), out)
    elif (
        isinstance(value, list) and value and all(isinstance(item, Mapping) and "class_path" in item for item in value)
    ):
        for item in value:
            short = str(item["class_path"]).rpartition(".")[2]
            if short not in KEEPERS:
                yield ".".join((*name, short)), item["class_path"]
                yield from _flat(item.get("init_args") or {}, (*name, short), out)
    elif isinstance(value, list):
        yield ".".join(name), _moved(json.loads(json.dumps(value, default=str)), out)
    else:
        yield ".".join(name), _moved(value, out)
        if name and name[-1] in READ and Path(str(value)).is_file():
            yield ".".join((*name, "sha256")), hashlib.sha256(Path(str(value)).read_bytes()).hexdigest()[:16]


def _moved(value: Any, out: str) -> Any:
    """Return a setting with the run's own folder replaced in paths."""
    if isinstance(value, str):
        return "<run>" + value[len(out) :] if value == out or value.startswith(out + "/") else value
    if isinstance(value, Mapping):
        return {key: _moved(item, out) for key, item in value.items()}
    return [_moved(item, out) for item in value] if isinstance(value, list) else value


def _shown(settings: Mapping[str, Any], name: str) -> str:
    return repr(settings[name]) if name in settings else "nothing"
