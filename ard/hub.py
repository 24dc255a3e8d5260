"""Models of the Hugging Face hub: fetch those that a run needs before anything is loaded, and say what they are."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import HfApi, ModelInfo, constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined] # it is public, and not in __all__
from huggingface_hub.utils.logging import get_verbosity, set_verbosity, set_verbosity_error

from ard.console import Progress, console, say
from ard.types import UserError

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""Files of weights that transformers loads, the one that it prefers first; large models have them in parts."""
EXTRACTORS = ("preprocessor_config.json", "processor_config.json")
"""What a model that hears has beside its configuration, one of them at least."""
TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json")
"""What a model that only reads has."""
ADAPTER = "adapter_model.safetensors"
ONE_WORD = ("bert-base-uncased", "roberta-base", "roberta-large")
"""Hub ids without an owner, from the hub's first years, that other packages load."""
SMALL = (".json", ".txt", ".model", ".jinja", ".tiktoken")
"""How the names of configurations, tokenizers, processors and chat templates end."""
MB = 1_000_000


class _Download(NamedTuple):
    """What has to be fetched of one model; weights come last, so that a model that has them is complete."""

    model: str
    files: Sequence[str]
    num_mb: int
    licence: str


def ensure_models(
    models: Iterable[str | None],
    *,
    weights: bool = True,
    beside: Sequence[str] = EXTRACTORS,
    otherwise: str = "try ard without one by --model embedded --clap embedded",
) -> None:
    """Make sure that all models of a run are in the hub's cache on this machine, before anything is loaded.

    Those that are not there are listed with their sizes and licences, and then fetched with a progress bar: the files
    that transformers loads, and not the copies of the weights for other libraries. Where all of them are there, the
    network is not used and nothing is shown. A download that was stopped goes on. A hub that cannot be reached is not
    tried again: huggingface_hub itself would try each file six times, for 23 s.

    Args:
        models: names as ``--model`` and ``--clap`` take them. Whatever is not a hub id is left alone: None, a local
            folder, ``embedded``, ``computed:FOLDER``, ``laion:NAME``.
        weights: whether the weights are needed, or only the small files that describe a model.
        beside: the small files of which a model that is there has one at least.
        otherwise: what to do where there is no network, as an error says it.

    Raises:
        UserError: if a model is neither in the cache nor can be fetched: the hub cannot be reached, has no such model
            or does not give it to this user, or the model has no weights that transformers can load.
    """
    ids = dict.fromkeys(model for model in models if model and is_model_id(model))
    missing = [model for model in ids if not is_cached(model, weights=weights, beside=beside)]
    if not missing:
        return
    with _quiet():
        _fetch([_download(model, _ask(model, missing, otherwise), weights=weights) for model in missing], otherwise)


def ensure_file(model: str, name: str, *, otherwise: str) -> Path:
    """Return the path of a single file of the hub in the cache on this machine, where it is fetched to if need be.

    Args:
        model: the hub id.
        name: the file's path in its repository.
        otherwise: what to do where there is no network, as an error says it.

    Raises:
        UserError: if the file is neither in the cache nor can be fetched.
    """
    path = try_to_load_from_cache(model, name)
    if isinstance(path, str):
        return Path(path)
    with _quiet():
        info = _ask(model, [f"{model} {name}"], otherwise)
        if name not in _sizes(info):
            raise UserError(f"{model!r} has no file {name!r} on the hub: give one of {', '.join(sorted(_sizes(info)))}")
        _fetch([_listing(model, info, [name])], otherwise)
    return Path(hf_hub_download(model, name, local_files_only=True))


def is_model_id(model: str) -> bool:
    """Return whether a model's name stands for one on the hub, rather than for a local folder or a model of ard's."""
    try:
        validate_repo_id(model)
    except HFValidationError:
        return False
    return ("/" in model or model in ONE_WORD) and not Path(model).exists()


def is_cached(model: str, *, weights: bool = True, beside: Sequence[str] = EXTRACTORS) -> bool:
    """Return whether the hub's cache on this machine has a model: its configuration, extractor and all weights.

    The other arguments are those of :func:`ensure_models`.
    """
    folder = _snapshot(model)
    if folder is None or not any((folder / name).is_file() for name in beside):
        return False
    return not weights or any(all((folder / part).is_file() for part in _parts(folder, name)) for name in WEIGHTS)


def commit_of(model: str) -> str | None:
    """Return the commit of a hub model that is loaded from the cache; None of any other model, such as a folder.

    What transformers loads lies there, also if it was fetched a moment ago, in a folder named after the commit.
    """
    folder = _snapshot(model) if is_model_id(model) else None
    return None if folder is None else folder.name


@contextmanager
def offline_if_cached(model: str, *, weights: bool = True, beside: Sequence[str] = EXTRACTORS) -> Iterator[None]:
    """Keep huggingface_hub off the network while a model is loaded that the cache has, as HF_HUB_OFFLINE=1 would.

    It would ask the hub about every file, also about those that the model does not have; where there is no network, it
    would try each of these for 23 s, and say so. The arguments are those of :func:`ensure_models`.
    """
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or (is_model_id(model) and is_cached(model, weights=weights, beside=beside))
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _snapshot(model: str) -> Path | None:
    """Return the folder of a model in the cache, ``snapshots/<commit>``, if its configuration is there."""
    config = try_to_load_from_cache(model, "config.json")
    return Path(config).parent if isinstance(config, str) else None


def _parts(folder: Path, weights: str) -> list[str]:
    """Return the names of the files that hold the weights: one, or those of its index."""
    index = folder / f"{weights}.index.json"
    if not index.is_file():
        return [weights]
    return sorted({*json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()})


def _ask(model: str, missing: Sequence[str], otherwise: str) -> ModelInfo:
    """Ask the hub, once, what a model consists of.

    Raises:
        UserError: if the hub does not say.
    """
    with _explained(model, missing, otherwise):
        return HfApi().model_info(model, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT)


def _download(model: str, info: ModelInfo, *, weights: bool) -> _Download:
    """Choose the files of a model that transformers loads.

    Raises:
        UserError: if it has no weights and they are needed.
    """
    sizes = _sizes(info)
    large = next((files for name in WEIGHTS if (files := _weights(name, sizes))), [])
    if weights and not large:
        raise UserError(
            f"model {model!r} has neither {WEIGHTS[0]} nor {WEIGHTS[1]} on the hub: give one that transformers can load"
        )
    small = [name for name in sizes if "/" not in name and name.endswith(SMALL) and ".index." not in name]
    adapter = [name for name in (ADAPTER,) if name in sizes]
    return _listing(model, info, [*small, *adapter, *large] if weights else small)


def _listing(model: str, info: ModelInfo, files: Sequence[str]) -> _Download:
    """Say how large some files of a model are, and under which licence."""
    sizes = _sizes(info)
    return _Download(model, files, -(-sum(sizes[name] for name in files) // MB), _licence(info))


def _sizes(info: ModelInfo) -> dict[str, int]:
    """Return the sizes of a model's files, in bytes."""
    return {file.rfilename: file.size or 0 for file in info.siblings or []}


def _weights(name: str, sizes: Iterable[str]) -> list[str]:
    """Return the files of one format of weights: a whole one, or an index and its parts."""
    if name in sizes:
        return [name]
    stem, suffix = name.split(".")
    part = re.compile(rf"{stem}-\d+-of-\d+\.{suffix}")
    index = f"{name}.index.json"
    return [index, *sorted(filter(part.fullmatch, sizes))] if index in sizes else []


def _licence(info: ModelInfo) -> str:
    """Return the licence that the model's card states."""
    card: Any = info.card_data or {}
    licence = card.get("license")
    if licence == "other":
        licence = card.get("license_name")
    return str(licence or "not stated on its card")


def _fetch(downloads: Sequence[_Download], otherwise: str) -> None:
    """Say what is fetched, and fetch it, one file after the other.

    Raises:
        UserError: if one cannot be fetched.
    """
    say(f"fetching {_joined(download.model for download in downloads)} from the hub, for this time and all later ones")
    for model, _, num_mb, licence in downloads:
        line = f"  {model}: {num_mb:,} MB, licence: {licence}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    for model, files, num_mb, _ in downloads:
        with Progress(model, num_mb, "MB") as progress, _explained(model, [model], otherwise, f"{num_mb:,} MB"):
            bar = _bar(progress)
            for name in files:
                hf_hub_download(model, name, tqdm_class=bar)


def _bar(progress: Progress) -> type[Any]:
    """Return a class that stands in for tqdm's, with which huggingface_hub counts the bytes of every file."""
    num_bytes = 0

    class Bar:
        def __init__(self, *, initial: int = 0, **_: Any) -> None:
            self.update(initial)

        def __enter__(self) -> "Bar":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def close(self) -> None:
            pass

        def update(self, n: Any = 1) -> None:
            nonlocal num_bytes
            num_bytes += n or 0
            progress.advance(num_bytes // MB - progress.done)

        def update_transfer(self, n: Any = 1) -> None:
            """Pass over what comes through the network, since it is counted again when it is written."""

        def set_postfix_str(self, *_: Any, **__: Any) -> None:
            pass

        set_transfer_postfix_str = set_postfix_str

    return Bar


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep huggingface_hub's warnings of retries off the screen: what comes of them is said in one line."""
    before = get_verbosity()
    set_verbosity_error()
    try:
        yield
    finally:
        set_verbosity(before)


@contextmanager
def _explained(model: str, missing: Sequence[str], otherwise: str, size: str = "unknown size") -> Iterator[None]:
    """Turn what the hub says of a model, or what the network says, into one line.

    Args:
        model: the model that the hub is asked for.
        missing: all models that cannot be had if the hub cannot be reached, or a model and one of its files.
        otherwise: what to do where there is no network.
        size: how much there is to fetch.
    """
    page = f"{constants.ENDPOINT}/{model}"
    try:
        yield
    except GatedRepoError:
        raise UserError(
            f"model {model!r} is given only to those who accept its terms: do so at {page}, and log in with "
            "`hf auth login`"
        ) from None
    except RepositoryNotFoundError:
        raise UserError(
            f"model {model!r} is neither a folder here nor at {page}: check the name; if it is private, log in with "
            "`hf auth login`"
        ) from None
    except Exception as error:  # depends on the client's HTTP library
        commands = " and ".join(f"`hf download {name}`" for name in missing)
        raise UserError(
            f"{_joined(missing)} ({size}) cannot be fetched from {constants.ENDPOINT} ({_reason(error)}), and "
            f"{constants.HF_HUB_CACHE} does not have all of it: where there is a network, run {commands}, or "
            f"{otherwise}"
        ) from None


def _reason(error: Exception) -> str:
    """Say in a few words why the hub gave nothing."""
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set"
    if isinstance(error, HfHubHTTPError):
        return f"it answered {error.response.status_code}"
    return " ".join(re.sub(r"^\[Errno -?\d+\] ", "", str(error)).split())[:200] or type(error).__name__


def _joined(models: Iterable[str]) -> str:
    return " and ".join(models)
