"""Tokens whose features are known: sparse directions that fire by Zipf's law, in trees, in pairs, under noise."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

BRANCHING = 4  # children of a parent
FIRST_CHILD = 1 / 4  # of the features, by frequency: far enough down for children to be rarer than their parents
CORRELATION = 0.8  # of the two Gaussians behind a pair
MAGNITUDE, MAGNITUDE_SPREAD = (1.25, 1.0), 0.15  # means of the most frequent and the rarest feature; deviation of each


class Setting(NamedTuple):
    """What the tokens are made of. All sizes follow from the width and the number of features."""

    width: int = 128  # d_in
    num_features: int = 256
    exponent: float = 0.75  # of Zipf's law
    most: float = 0.4  # share of the tokens in which the most frequent feature fires
    tree_share: float = 1 / 32  # of the features are parents, with four children each
    pair_share: float = 1 / 10  # of the features outside the trees are in correlated pairs
    noise: float = 0.02  # standard deviation in every dimension
    bias: float = 1.0  # norm of what every token has in common


class Batch(NamedTuple):
    """Tokens, and what they are made of."""

    x: Float[Tensor, "tokens d_in"]
    activations: Float[Tensor, "tokens features"]  # 0 where a feature does not fire


class World:
    """Known features, and tokens made of them: x = a D + b + noise, with unit rows of D.

    Features are numbered by frequency: feature i fires in a share ``most * (i + 1) ** -exponent`` of the tokens,
    exactly so whatever it depends on. A child fires only where its parent does, and at most one child of a parent
    fires. The two features of a pair fire together more often than by chance (a Gaussian copula). Directions are drawn
    from a Gaussian; they are orthogonal where there are no more features than dimensions. A batch is made from its
    number alone, so that nothing is kept and every trainer can be given the same batches.

    Args:
        setting: what the tokens are made of.
        seed: of the directions, and of all batches.

    Raises:
        ValueError: if children would have to fire more often than their parent.
    """

    def __init__(self, setting: Setting, seed: int) -> None:
        self.setting, self.seed = setting, seed
        generator = self._generator("train", 0)
        drawn = torch.randn(setting.num_features, setting.width, generator=generator)
        fits = setting.num_features <= setting.width
        self.directions = torch.linalg.qr(drawn.T).Q.T.contiguous() if fits else normalize(drawn, dim=1)
        self.bias = setting.bias * normalize(torch.randn(setting.width, generator=generator), dim=0)
        rank = torch.arange(1, setting.num_features + 1, dtype=torch.float64)
        self.frequency = setting.most * rank**-setting.exponent
        self.parent = parents(setting)
        self.children = self.parent.ge(0).nonzero().flatten().reshape(BRANCHING, -1).T  # [trees, branching]
        self.pairs = pairs(setting, self.parent)
        share = self.frequency[self.children] / self.frequency[: len(self.children), None]
        self._ends = share.cumsum(dim=1).float()  # of every child's interval in the number by which a parent has one
        self._starts = torch.cat([torch.zeros(len(share), 1), self._ends[:, :-1]], dim=1)
        self._mean = torch.linspace(*MAGNITUDE, setting.num_features)
        if len(self.children) and float(self._ends.max()) > 1:
            raise ValueError(f"children fire more often than their parent: raise exponent, {setting.exponent}")

    @property
    def l0(self) -> float:
        """The mean number of features that fire in a token."""
        return float(self.frequency.sum())

    def _generator(self, split: str, number: int) -> torch.Generator:
        """Return a generator of its own for every batch, and other than that of an SAE's first weights.

        torch reads 32 bits of a seed, so that these are hashed.
        """
        (seed,) = np.random.SeedSequence([self.seed, split == "test", number]).generate_state(1)
        return torch.Generator().manual_seed(int(seed))

    def batch(self, number: int, num_tokens: int, split: str = "train") -> Batch:
        """Return a batch; those of one split are independent of those of another.

        Args:
            number: of the batch.
            num_tokens: its size.
            split: ``train`` or ``test``.
        """
        generator = self._generator(split, 1 + number)
        fires = self._fires(num_tokens, generator)
        tokens, features = fires.nonzero(as_tuple=True)
        mean = self._mean[features]
        activations = torch.zeros(fires.shape)
        activations[tokens, features] = (mean + MAGNITUDE_SPREAD * torch.randn(len(mean), generator=generator)).relu()
        noise = self.setting.noise * torch.randn(num_tokens, self.setting.width, generator=generator)
        return Batch(activations @ self.directions + self.bias + noise, activations)

    def _fires(self, num_tokens: int, generator: torch.Generator) -> Bool[Tensor, "tokens features"]:
        frequency = self.frequency.float()
        fires = torch.rand(num_tokens, len(frequency), generator=generator) < frequency
        if len(self.pairs):
            normal = torch.randn(2, num_tokens, len(self.pairs), generator=generator)
            normal[1] = CORRELATION * normal[0] + (1 - CORRELATION**2) ** 0.5 * normal[1]
            for side, features in enumerate(self.pairs.T):
                fires[:, features] = torch.special.ndtr(normal[side]) < frequency[features]
        if len(self.children):
            which = torch.rand(num_tokens, len(self.children), 1, generator=generator)
            chosen = (self._starts <= which) & (which < self._ends) & fires[:, : len(self.children), None]
            fires[:, self.children.flatten()] = chosen.flatten(start_dim=1)
        return fires


def parents(setting: Setting) -> Int[Tensor, " features"]:
    """Return the parent of every feature, -1 where it has none: the most frequent ones, in turn."""
    num_trees = int(setting.tree_share * setting.num_features)
    parent = torch.full((setting.num_features,), -1)
    first = max(int(FIRST_CHILD * setting.num_features), num_trees)
    parent[first : first + BRANCHING * num_trees] = torch.arange(num_trees).repeat(BRANCHING)
    return parent


def pairs(setting: Setting, parent: Int[Tensor, " features"]) -> Int[Tensor, "pairs two"]:
    """Return pairs of neighbours by frequency outside the trees, spread evenly over all frequencies."""
    in_tree = parent >= 0
    in_tree[: int(setting.tree_share * setting.num_features)] = True
    free = (~in_tree).nonzero().flatten()
    num_pairs = int(setting.pair_share * len(free) / 2)
    step = len(free) // max(num_pairs, 1)
    return torch.stack([free[0 : num_pairs * step : step], free[1 : num_pairs * step + 1 : step]], dim=1)[:num_pairs]
