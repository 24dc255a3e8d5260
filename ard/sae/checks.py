"""What is refused of an SAE folder's configuration and tensors, by name, with the value and what to do."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ard.types import UserError

PRECISIONS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # in which weights may be stored


def refuse_unless(folder: Path, config: Mapping[str, Any], **plain: tuple[Any, ...]) -> None:
    """Refuse any option that is set to a value not accepted here; the last item of each tuple is the reason to show.

    Raises:
        UserError: if there is such an option.
    """
    for option, (*accepted, reason) in plain.items():
        value = config.get(option, accepted[0])
        if value not in accepted:
            choices = " or ".join(map(repr, accepted))
            raise UserError(f"{str(folder)!r}: {option} is {shown(value)}, only {choices} can be read: {reason}")


def shown(value: Any) -> str:
    """Return a value from a file as one short line for a message."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def mapping(folder: Path, name: str, value: Any) -> dict[str, Any]:
    """Return a nested part of a configuration; empty if it is left out.

    Raises:
        UserError: if it is anything else.
    """
    if value is not None and not isinstance(value, dict):
        raise UserError(f"{str(folder)!r}: {name} is {shown(value)}, not a mapping: correct its configuration")
    return dict(value or {})


def flag(folder: Path, config: Mapping[str, Any], name: str, *, default: bool) -> bool:
    """Return an option that is on or off.

    Raises:
        UserError: if it is anything else.
    """
    value = config.get(name, default)
    if not isinstance(value, bool):
        raise UserError(f"{str(folder)!r}: {name} is {shown(value)}: write true or false into its configuration")
    return value


def count(folder: Path, name: str, value: Any) -> int:
    """Return a count of at least 1, and no larger than a tensor could hold.

    Raises:
        UserError: if it is anything else.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < 2**40:
        raise UserError(f"{str(folder)!r}: its configuration gives {shown(value)} for {name}: write the number into it")
    return value


def one_number(folder: Path, name: str, tensor: Tensor) -> float:
    """Return the one value that all entries of a tensor have.

    Raises:
        UserError: if it is anything else.
    """
    numbers = torch.empty(0) if tensor.is_complex() else tensor.flatten().double()
    if numbers.numel() == 0 or not numbers.isfinite().all() or not (numbers == numbers[0]).all():
        raise UserError(f"{str(folder)!r}: {name} is not one number, as BatchTopK's is: other SAEs are not read")
    return float(numbers[0])


def check(
    folder: Path, tensors: Mapping[str, Tensor], k: Any, d_in: Any, d_sae: Any, *, threshold: bool = False
) -> int:
    """Return k, or refuse tensors that do not match the configuration.

    Raises:
        UserError: if they do not.
    """
    for name, size in {"d_in": d_in, "d_sae": d_sae, "k": k}.items():
        count(folder, name, size)
    if k > d_sae:
        raise UserError(f"{str(folder)!r}: k is {shown(k)}, and there are {d_sae} features: correct its configuration")
    shapes = {"W_enc": (d_in, d_sae), "b_enc": (d_sae,), "W_dec": (d_sae, d_in), "b_dec": (d_in,)}
    if threshold:
        shapes["threshold"] = (d_sae,)
    for name in sorted(shapes.keys() ^ tensors.keys()):
        problem = f"{name} is missing" if name in shapes else f"{shown(name)} is a tensor that no TopK-SAE has"
        raise UserError(f"{str(folder)!r}: {problem}: save the SAE again with the library that trained it")
    for name, tensor in tensors.items():
        if tensor.dtype not in PRECISIONS:
            raise UserError(
                f"{str(folder)!r}: {name} is {str(tensor.dtype).removeprefix('torch.')}: save the SAE again in "
                "float32, float16 or bfloat16"
            )
    for name, shape in shapes.items():
        actual = tuple(tensors[name].shape)
        if actual != shape:
            turned = ", and seems to be transposed" if actual == shape[::-1] else ""
            raise UserError(
                f"{str(folder)!r}: {name} is {list(actual)}{turned}, its configuration says {shown(list(shape))}: "
                "correct it"
            )
    return k
