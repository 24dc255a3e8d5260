"""What can be tried to turn an answer: features at a multiple, a direction at a length, or words in the question."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ard.steering.interview import Condition

HINTS = (
    "You hear this: {concept}.",
    "The recording is of someone {concept}.",
    "The speaker is {target}.",
    "It is clearly {target}.",
    "Somebody who knows the recording says: {concept}.",
    "Take the speaker to be {target}.",
    "Hear it as {target}.",
    "Note that this is {concept}.",
    "Everyone who heard it said {target}.",
)
"""Sentences before the question, tried in this order: the baseline of plain words."""


@dataclass(frozen=True)
class Setting:
    """One way to steer, and how strongly.

    Args:
        features: these are set to a multiple of their maxima.
        direction: a unit vector, added at the audio tokens (or wherever the procedure says).
        strength: the multiple of the maxima, or the direction's length in ``unit``.
        unit: the length that a strength of 1 stands for.
        hint: a sentence before the question.
    """

    features: tuple[int, ...] = ()
    direction: Float[Tensor, " d_in"] | None = field(default=None, compare=False)
    strength: float = 1.0
    unit: float = 1.0
    hint: str | None = None

    def at(self, strength: float) -> "Setting":
        """Return the same at another strength."""
        return replace(self, strength=strength)

    def clamp(self, maxima: Float[Tensor, " features"]) -> dict[int, float]:
        """Return the features with the values that they are set to."""
        return {feature: self.strength * self.unit * float(maxima[feature]) for feature in self.features}

    def condition(self, prompt: str, maxima: Float[Tensor, " features"]) -> Condition:
        """Return what is asked, and what is done to the model while it answers."""
        if self.hint is not None:
            return Condition(f"{self.hint} {prompt}", None)
        if self.direction is not None:
            return Condition(prompt, None, self.strength * self.unit * self.direction)
        return Condition(prompt, self.clamp(maxima))

    def summary(self) -> dict[str, Any]:
        """Return it for a result file."""
        if self.hint is not None:
            return {"hint": self.hint}
        if self.direction is not None:
            return {"length": self.strength}
        return {"num_features": len(self.features), "multiple": self.strength}

    def __str__(self) -> str:
        """Say it in the fewest words."""
        if self.hint is not None:
            return self.hint
        return f"{len(self.features)} features at {self.strength:g}" if self.features else f"length {self.strength:g}"


def norm_of_change(directions: Float[Tensor, "features d_in"], clamp: Mapping[int, float]) -> float:
    """Return the length of what features add to x_hat at these values, whatever else they displace.

    Example:
        >>> import torch
        >>> from ard.steering.settings import norm_of_change
        >>> norm_of_change(torch.eye(3), {0: 3.0, 2: 4.0})
        5.0
    """
    if not clamp:
        return 0.0
    values = torch.tensor(list(clamp.values()), dtype=directions.dtype, device=directions.device)
    return float((values @ directions[list(clamp)]).norm())


def hints(concept: str, target: str, num: int) -> list[str]:
    """Return sentences that say a task's target, as many as other methods have settings."""
    return [hint.format(concept=concept, target=target) for hint in HINTS[:num]]
