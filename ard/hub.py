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
ADAPTER = "adapter_model.safetensors"
SMALL = (".json", ".txt", ".model", ".jinja", ".tiktoken")
"""How the names of configurations, tokenizers, processors and chat templates end."""
MB = 1_000_000


class _Download(NamedTuple):
    """What has to be fetched of one model; weights come last, so that a model that has them is complete."""

    model: str
    files: Sequence[str]
    num_mb: int
    licence: str


def ensure_models(models: Iterable[str | None]) -> None:
    """Make sure that all models of a run are in the hub's cache on this machine, before anything is loaded.

    Those that are not there are listed with their sizes and licences, and then fetched with a progress bar: the files
    that transformers loads, and not the copies of the weights for other libraries. Where all of them are there, the
    network is not used and nothing is shown. A download that was stopped goes on.

    Args:
        models: names as ``--model`` and ``--clap`` take them. Whatever is not a hub id is left alone: None, a local
            folder, ``embedded``, ``computed:FOLDER``, ``laion:NAME``.

    Raises:
        UserError: if a model is neither in the cache nor can be fetched: the hub cannot be reached, has no such model
            or does not give it to this user, or the model has no weights that transformers can load.
    """
    ids = dict.fromkeys(model for model in models if model and is_model_id(model))
    missing = [model for model in ids if not is_cached(model)]
    if not missing:
        return
    with _quiet():
        downloads = [_ask(model, missing) for model in missing]
        say(f"fetching {_listed(missing)} from the hub, for this time and all later ones")
        for download in downloads:
            line = f"  {download.model}: {download.num_mb:,} MB, licence: {download.licence}"
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        for download in downloads:
            _fetch(download)


def is_model_id(model: str) -> bool:
    """Return whether a model's name stands for one on the hub, rather than for a local folder or a model of ard's."""
    try:
        validate_repo_id(model)
    except HFValidationError:
        return False
    return "/" in model and not Path(model).exists()


def is_cached(model: str) -> bool:
    """Return whether the hub's cache on this machine has a model: its configuration, extractor and all weights."""
    config = try_to_load_from_cache(model, "config.json")
    if not isinstance(config, str):
        return False
    folder = Path(config).parent
    return any((folder / name).is_file() for name in EXTRACTORS) and any(
        all((folder / part).is_file() for part in _parts(folder, weights)) for weights in WEIGHTS
    )


@contextmanager
def offline_if_cached(model: str) -> Iterator[None]:
    """Keep huggingface_hub off the network while a model is loaded that the cache has, as HF_HUB_OFFLINE=1 would.

    It would ask the hub about every file, also about those that the model does not have; where there is no network, it
    would try each of these for 23 s, and say so.
    """
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or (is_model_id(model) and is_cached(model))
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _parts(folder: Path, weights: str) -> list[str]:
    """Return the names of the files that hold the weights: one, or those of its index."""
    index = folder / f"{weights}.index.json"
    if not index.is_file():
        return [weights]
    return sorted({*json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()})


def _ask(model: str, missing: Sequence[str]) -> _Download:
    """Ask the hub what a model consists of.

    Raises:
        UserError: if the hub does not say, or it has no weights.
    """
    with _explained(model, missing):
        info = HfApi().model_info(model, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
    weights = next((files for name in WEIGHTS if (files := _weights(name, sizes))), [])
    if not weights:
        raise UserError(
            f"model {model!r} has neither {WEIGHTS[0]} nor {WEIGHTS[1]} on the hub: give one that transformers can load"
        )
    small = [name for name in sizes if "/" not in name and name.endswith(SMALL) and ".index." not in name]
    files = [*small, *(name for name in (ADAPTER,) if name in sizes), *weights]
    return _Download(model, files, -(-sum(sizes[name] for name in files) // MB), _licence(info))


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


def _fetch(download: _Download) -> None:
    """Fetch one model's files, one after the other.

    Raises:
        UserError: if one cannot be fetched.
    """
    model, files, num_mb, _ = download
    with Progress(model, num_mb, "MB") as progress, _explained(model, [model], f"{num_mb:,} MB"):
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
def _explained(model: str, missing: Sequence[str], size: str = "unknown size") -> Iterator[None]:
    """Turn what the hub says of a model, or what the network says, into one line.

    Args:
        model: the model that the hub is asked for.
        missing: all models that cannot be had if the hub cannot be reached.
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
            f"{_listed(missing)} ({size}) cannot be fetched from {constants.ENDPOINT} ({_reason(error)}), and "
            f"{constants.HF_HUB_CACHE} does not have all of it: where there is a network, run {commands}, or try ard "
            "without one by --model embedded --clap embedded"
        ) from None


def _reason(error: Exception) -> str:
    """Say in a few words why the hub gave nothing."""
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set"
    if isinstance(error, HfHubHTTPError):
        return f"it answered {error.response.status_code}"
    return " ".join(re.sub(r"^\[Errno -?\d+\] ", "", str(error)).split())[:200] or type(error).__name__


def _listed(models: Sequence[str]) -> str:
    return " and ".join(models)
