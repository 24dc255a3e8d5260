"""Directions to steer by without a dictionary: simple baselines, and random ones to rank against."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ard.run import Cell
from ard.types import UserError

SUFFIX = ".safetensors"


class Heard(NamedTuple):
    """What a layer holds at the audio tokens of some clips."""

    means: Float[Tensor, "clips d_in"]
    mean_squares: Float[Tensor, " clips"]  # of the tokens' lengths

    def spread(self) -> float:
        """Return the root mean square distance of tokens from their mean, clips counting equally: a unit of length."""
        return float((self.mean_squares.mean() - self.means.mean(dim=0).square().sum()).clamp(min=0).sqrt())


def difference_of_means(
    source: Float[Tensor, "clips d_in"], target: Float[Tensor, "others d_in"]
) -> Float[Tensor, " d_in"]:
    """Return the unit vector from the mean of one class's clips to that of another's; zeros if they are equal.

    Example:
        >>> import torch
        >>> from ard.steering.directions import difference_of_means
        >>> difference_of_means(torch.zeros(2, 2), torch.tensor([[2.0, 0.0], [4.0, 0.0]]))
        tensor([1., 0.])
    """
    return _unit(target.mean(dim=0) - source.mean(dim=0))


def linear_probe(source: Float[Tensor, "clips d_in"], target: Float[Tensor, "others d_in"]) -> Float[Tensor, " d_in"]:
    """Return the unit vector in which a logistic regression's log-odds of the target grow fastest.

    The regression is scikit-learn's, with its default penalty, on coordinates of variance 1 over all clips.
    """
    from sklearn.linear_model import LogisticRegression

    x = torch.cat([source, target]).double().cpu()
    scale = x.std(dim=0)
    scale[scale == 0] = 1
    is_target = np.r_[np.zeros(len(source), dtype=bool), np.ones(len(target), dtype=bool)]
    probe = LogisticRegression(max_iter=1000).fit((x / scale).numpy(), is_target)
    return _unit((torch.from_numpy(probe.coef_[0]) / scale).to(source.dtype)).to(source.device)


def audio_minus_silence(
    clips: Float[Tensor, "clips d_in"], silenced: Float[Tensor, "clips d_in"]
) -> Float[Tensor, " d_in"]:
    """Return the unit vector from the mean of silenced copies to that of the clips: towards what is heard at all."""
    return difference_of_means(silenced, clips)


def random_directions(num: int, d_in: int, generator: torch.Generator) -> Float[Tensor, "num d_in"]:
    """Draw unit vectors, all directions alike."""
    return torch.nn.functional.normalize(torch.randn(num, d_in, generator=generator), dim=1)


class Direction(NamedTuple):
    """A unit vector, and the length that a strength of 1 stands for."""

    vector: Float[Tensor, " d_in"]
    unit: float


def save_directions(cell: Cell, directions: Mapping[str, Direction]) -> None:
    """Write ``directions.safetensors`` of a cell: vectors by name; layer and lengths are in the metadata, as JSON."""
    units = {name: direction.unit for name, direction in directions.items()}
    about = {"layer": str(cell.layer), "units": json.dumps(units)}
    cell.save_tensors("directions", {name: direction.vector for name, direction in directions.items()}, about)


def read_direction(file: str, layer: int) -> Float[Tensor, " d_in"]:
    """Read a direction to add to a layer's output, in the length that a strength of 1 stands for.

    Args:
        file: a safetensors file that holds one vector, or ``FILE.safetensors:NAME`` for one of several. The vector is
            multiplied by its length in the file's metadata ``units``, if it is there, as :func:`save_directions` writes
            it.
        layer: the layer that it is to be added to.

    Raises:
        UserError: if there is no such vector, or the file says that it is of another layer.
    """
    path, name = _split(file)
    if path.suffix != SUFFIX or not path.is_file():
        raise UserError(f"direction {str(path)!r} is no {SUFFIX} file that exists: give FILE{SUFFIX}, or with :NAME")
    try:
        with safe_open(path, framework="pt") as stored:
            names, about = list(stored.keys()), stored.metadata() or {}
            chosen = name or (names[0] if len(names) == 1 else None)
            vector = stored.get_tensor(chosen) if chosen in names else None
        of_layer, units = int(about.get("layer", layer)), dict(json.loads(about.get("units", "{}")))
        unit = float(units.get(chosen, 1.0))
    except (OSError, SafetensorError, TypeError, ValueError) as error:
        raise UserError(f"direction {str(path)!r} cannot be read ({error}): give another file") from error
    if vector is None:
        wanted = "does not say which" if name is None else f"has no {name!r}"
        raise UserError(f"direction {file!r} {wanted}: give {path.name}:NAME with one of {sorted(names)}")
    if vector.ndim != 1 or not vector.is_floating_point():
        raise UserError(
            f"direction {chosen!r} has the shape {list(vector.shape)} and type {vector.dtype}: give a vector of "
            "floating-point numbers, as many as the layer is wide"
        )
    if of_layer != layer:
        raise UserError(f"{str(path)!r} is of layer {of_layer}, not {layer}: give --layer {of_layer}, or another file")
    return unit * vector.float()


def _split(file: str) -> tuple[Path, str | None]:
    """Return the path, and the name behind a colon; a path that exists as it is has none."""
    before, found, name = file.partition(f"{SUFFIX}:")
    return (Path(file), None) if not found or Path(file).is_file() else (Path(before + SUFFIX), name)


def _unit(vector: Float[Tensor, " d_in"]) -> Float[Tensor, " d_in"]:
    return torch.nn.functional.normalize(vector, dim=0)
