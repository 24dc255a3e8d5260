"""The files of an SAE folder: JSON, safetensors and pickles of tensors. Nothing that is read here can run code."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ard.results import replacing, write_text
from ard.sae.checks import shown
from ard.types import UserError


def read_config(path: Path) -> dict[str, Any]:
    """Read a configuration.

    Raises:
        UserError: if the file cannot be read, or holds something else.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{str(path)!r} cannot be read ({error.strerror}): check the file") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{str(path)!r} is not JSON ({error}): get the folder again") from None
    if not isinstance(config, dict):
        raise UserError(f"{str(path)!r} holds {shown(config)}, not a configuration: get the folder again")
    return config


def write_config(config: Mapping[str, Any], path: Path) -> None:
    """Write a configuration, whole or not at all."""
    write_text(path, json.dumps(config, indent=2) + "\n")


def load_safetensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file.

    Raises:
        UserError: if it is none.
    """
    try:
        return dict(load_file(path))
    except Exception as error:  # a damaged header can raise nearly anything
        raise UserError(
            f"{str(path)!r} is not a safetensors file ({_reason(error)}): only safetensors files are read here"
        ) from None


def load_state_dict(path: Path) -> dict[str, Tensor]:
    """Read tensors from a pickle; nothing else in it is created or called.

    Raises:
        UserError: if it holds anything else.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a malicious pickle can raise nearly anything
        raise UserError(
            f"{str(path)!r} is broken or would run code when read ({_reason(error)}): "
            "ask who trained it for a state_dict"
        ) from None
    if not isinstance(state, dict) or not all(isinstance(name, str) and _is_plain(x) for name, x in state.items()):
        raise UserError(f"{str(path)!r} holds more than the SAE's tensors: save the SAE's state_dict by itself")
    return {name: tensor.detach() for name, tensor in state.items()}


def _is_plain(tensor: Any) -> bool:
    """Return whether this is a tensor whose entries are all in memory; a file can expand one entry to any size."""
    if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.device.type != "cpu":
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def _reason(error: Exception) -> str:
    """Return the last line of an error's message; what cannot be printed, such as bytes of the file, is escaped."""
    line = (str(error).splitlines() or [type(error).__name__])[-1][:200]
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in line)


def save_pickle(state: dict[str, Tensor], path: Path) -> None:
    """Write tensors as a pickle, whose bytes do not depend on the file's name."""
    with path.open("wb") as file:
        torch.save(state, file)  # not the path: torch would write its name into the file


def save_tensors(tensors: Mapping[str, Tensor], path: Path, save: Callable[[dict[str, Tensor], Path], object]) -> None:
    """Write tensors, whole or not at all, as ``save`` does."""
    # cloned, so that no two share memory, and a view is saved without the rest of its storage
    clones = {n: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for n, tensor in tensors.items()}
    with replacing(path) as partial:
        save(clones, partial)
