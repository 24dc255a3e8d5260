"""Directions to steer by without a dictionary: simple baselines, and random ones to rank against."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


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


def _unit(vector: Float[Tensor, " d_in"]) -> Float[Tensor, " d_in"]:
    return torch.nn.functional.normalize(vector, dim=0)
