"""The YAML files of a preset, and the facts that they share."""

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ard.types import UserError

CONFIGS = next(
    folder
    for folder in (Path(__file__).parent / "configs", Path(__file__).parent.parent / "configs")
    if folder.is_dir()
)


def preset_folder(preset: str) -> Path:
    """Return the folder of a preset's YAML files: one of `configs` by its name, or a user's own by its path.

    Raises:
        UserError: if there is no such preset.
    """
    folder = next((folder for folder in (CONFIGS / preset, Path(preset)) if (folder / "run.yaml").is_file()), None)
    if folder is None:
        presets = sorted(folder.parent.name for folder in CONFIGS.glob("*/run.yaml"))
        raise UserError(
            f"preset {preset!r} does not exist: choose one of {presets}, or give a folder of your own with a run.yaml"
        )
    return folder


def preset_facts(preset: str, changes: Mapping[str, Any]) -> DictConfig:
    """Return the facts of a preset's ``run.yaml``, with some changed; references between facts are resolved when read.

    Raises:
        UserError: if there is no such preset.
    """
    both = merged(OmegaConf.load(preset_folder(preset) / "run.yaml"), _facts(changes))
    for name, value in changes.items():
        if isinstance(value, Mapping) and (not value or "class_path" in value):
            both[name] = value  # in place of what the preset has: merged with it, it were another thing
    return OmegaConf.create({"run": both}).run  # inside a root, so that ${run.<fact>} is found


def table_facts(preset: str, out: Path | None, seed: int, run: dict[str, Any] | None) -> dict[str, Any]:
    """Return the facts of a run that differ from its preset's.

    Raises:
        UserError: if the preset has no such fact.
    """
    stated = preset_facts(preset, {})
    if unknown := sorted(set(run or {}) - set(stated)):
        raise UserError(f"fact {unknown[0]!r} is not in the preset's run.yaml, which has {', '.join(sorted(stated))}")
    return {"out": str(out or Path("runs") / Path(preset).name), "seed": seed, **(run or {})}


def preset_files(preset: str, changes: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return the facts of a preset and, under their names, the content of some of its files, all resolved."""
    facts = preset_facts(preset, changes)
    files = {name: OmegaConf.load(preset_folder(preset) / f"{name}.yaml") for name in names}
    content = OmegaConf.to_container(OmegaConf.create({"run": facts, **files}), resolve=True)
    assert isinstance(content, dict)
    return {**content.pop("run"), **content}


def plain(facts: DictConfig) -> dict[str, Any]:
    """Return facts as a plain dict, with their references to one another resolved."""
    content = OmegaConf.to_container(OmegaConf.create({"run": facts}), resolve=True)
    assert isinstance(content, dict)
    return content["run"]


def split_facts(args: Sequence[str]) -> tuple[list[str], DictConfig]:
    """Take ``--run.<fact> VALUE`` and ``--run.<fact>=VALUE`` out of a command line: return the rest, and the facts."""
    rest: list[str] = []
    facts: list[str] = []
    words = iter(args)
    for word in words:
        if word.startswith("--run."):
            name, equals, value = word.removeprefix("--run.").partition("=")
            facts.append(f"{name}={value if equals else next(words, '')}")
        else:
            rest.append(word)
    given = OmegaConf.to_container(OmegaConf.from_dotlist(facts))
    assert isinstance(given, dict)
    return rest, OmegaConf.create(_facts({str(name): value for name, value in given.items()}))


@contextmanager
def resolved_arguments(args: Sequence[str]) -> Iterator[list[str]]:
    """Turn a command line with ``--config FILE`` and ``--run.<fact> VALUE`` into one that LightningCLI understands.

    In a YAML file ``${run.<fact>}`` refers to a fact of the ``run.yaml`` beside it.

    Raises:
        UserError: if a file does not exist, or does not resolve.
    """
    rest, facts = split_facts(args)
    passed: list[str] = []
    words = iter(rest)
    for word in words:
        if word in ("--config", "-c"):
            passed += ["--config", next(words, "")]
        elif word.startswith("--config="):
            passed += ["--config", word.removeprefix("--config=")]
        else:
            passed.append(word)
    with tempfile.TemporaryDirectory() as scratch:
        for index, word in enumerate(passed):
            if index and passed[index - 1] == "--config":
                path = Path(word)
                if not path.is_file():
                    raise UserError(
                        f"configuration {word!r} does not exist: give a YAML file, such as configs/demo/fit.yaml"
                    )
                beside = path.parent / "run.yaml"
                own = OmegaConf.load(beside) if beside.is_file() else OmegaConf.create()
                file = Path(scratch) / path.name
                text = yaml.safe_dump(resolved(path, merged(own, facts)), sort_keys=False)
                file.write_text(ascii_yaml(text), encoding="utf-8")
                passed[index] = str(file)
        yield passed


def ascii_yaml(text: str) -> str:
    """Return the same YAML in ASCII: Lightning's parser reads files in the encoding of the locale."""
    return text if text.isascii() else yaml.safe_dump(yaml.safe_load(text), sort_keys=False)


def merged(facts: Any, changes: Any) -> DictConfig:
    """Return facts, with some changed."""
    both = OmegaConf.merge(facts, changes)
    assert isinstance(both, DictConfig)
    return both


def _literal(value: Any, *, but: str = "$^") -> Any:
    """Escape ``${`` in values, so that OmegaConf takes it literally, unless ``but`` follows."""
    if isinstance(value, str):
        return re.sub(rf"(\\*)\$\{{(?!{but})", lambda match: 2 * match[1] + r"\${", value)
    if isinstance(value, Mapping):
        return {key: _literal(item, but=but) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_literal(item, but=but) for item in value]
    return value


def _facts(given: Mapping[str, Any]) -> dict[str, Any]:
    """Escape facts for OmegaConf: only ``${run.<fact>}`` refers to another fact, and not in the run's folder."""
    return {name: _literal(value, but="$^" if name == "out" else r"run\.") for name, value in given.items()}


def resolved(path: Path, facts: DictConfig, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the content of a YAML file, with references to facts replaced by the run's facts.

    Args:
        path: the YAML file.
        facts: the facts of the run.
        changes: facts to change for this file; they cannot refer to others.

    Raises:
        UserError: if the file does not resolve.
    """
    facts = merged(facts, _literal(changes or {}))
    try:
        config = OmegaConf.merge(OmegaConf.create({"run": facts}), OmegaConf.load(path))
        content = OmegaConf.to_container(config, resolve=True)
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"configuration {str(path)!r} cannot be read ({reason}): fix the file") from error
    assert isinstance(content, dict)
    return {str(name): value for name, value in content.items() if name != "run"}
