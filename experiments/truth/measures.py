"""How much of the truth a dictionary has: directions, firing, absorption.

Recovery by a one-to-one match of directions is SynthSAEBench's MCC (arXiv 2602.14687, after Song et al. 2025, arXiv
2505.20254), and firing its classification of tokens. A match here is by the signed cosine, of live latents alone, and
one latent stands for one feature. Absorption follows Chanin et al. 2024, arXiv 2409.14507, as
:class:`ard.evaluation.ProbeLabels` does; where the truth is known, no probe is needed.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import normalize

from ard.sae import Dictionary
from ard.types import Codes
from experiments.truth.generator import Batch, World

MATCHED = 0.9  # the cosine from which a latent has recovered a feature
CARRIED = 0.5  # the share of a parent's activation that the child's latent has to write to have absorbed it
NUM_DECILES = 10


class Coder(NamedTuple):
    """A dictionary with its encoder: x_hat = z directions + bias."""

    directions: Float[Tensor, "latents d_in"]
    bias: Float[Tensor, " d_in"]
    encode: Callable[[Batch], Float[Tensor, "tokens latents"]]


class Match(NamedTuple):
    """The latent that stands for every feature."""

    latent: Int[Tensor, " features"]  # -1 where none is left
    cosine: Float[Tensor, " features"]  # 0 where none is left

    @property
    def recovered(self) -> Bool[Tensor, " features"]:
        """Which features are recovered."""
        return self.cosine >= MATCHED


class Absorption(NamedTuple):
    """What becomes of the parents' latents, a row a child whose parent is recovered."""

    together: Int[Tensor, " children"]  # tokens in which parent and child fire
    silent: Int[Tensor, " children"]  # of those, the parent's latent is silent
    absorbed: Int[Tensor, " children"]  # of those, the child's latent writes the parent's direction


class Counts(NamedTuple):
    """What is counted over tokens."""

    true: Int[Tensor, " features"]  # the feature fires
    fired: Int[Tensor, " features"]  # its latent does
    both: Int[Tensor, " features"]  # both do
    absorption: Absorption
    alone: Int[Tensor, " parents"]  # tokens in which a recovered parent fires without a child
    silent_alone: Int[Tensor, " parents"]  # of those, its latent is silent


def of_dictionary(dictionary: Dictionary) -> Coder:
    """Return a dictionary as a coder."""

    @torch.inference_mode()
    def encode(batch: Batch) -> Float[Tensor, "tokens latents"]:
        codes = dictionary.encode(batch.x)
        return torch.zeros(len(batch.x), dictionary.d_sae).scatter_add_(1, codes.indices, codes.values)

    nothing = Codes(torch.zeros(1, 1), torch.zeros(1, 1, dtype=torch.int64))
    return Coder(dictionary.directions(), dictionary.decode(nothing)[0].detach(), encode)


def true_codes(world: World) -> Coder:
    """Return the ceiling: the codes that the tokens were made of."""
    return Coder(world.directions, world.bias, lambda batch: batch.activations)


def match(
    directions: Float[Tensor, "latents d_in"], live: Bool[Tensor, " latents"], truth: Float[Tensor, "features d_in"]
) -> Match:
    """Match live latents to features one to one, with the highest sum of cosines (the Hungarian method)."""
    cosine = normalize(directions[live], dim=1) @ truth.T
    rows, columns = map(torch.from_numpy, linear_sum_assignment(cosine.numpy(), maximize=True))
    found = Match(torch.full((len(truth),), -1), torch.zeros(len(truth)))
    found.latent[columns] = live.nonzero().flatten()[rows]
    found.cosine[columns] = cosine[rows, columns]
    return found


def count(coder: Coder, world: World, found: Match, batches: Iterator[Batch]) -> Counts:
    """Count firing and absorption over batches."""
    num_features, latent = len(found.latent), found.latent
    has = latent >= 0
    true, fired, both = (torch.zeros(num_features, dtype=torch.int64) for _ in range(3))
    child = (world.parent.ge(0) & found.recovered[world.parent]).nonzero().flatten()
    parent = world.parent[child]
    written = torch.where(has[child], (coder.directions[latent[child]] * world.directions[parent]).sum(dim=1), 0.0)
    sums = Absorption(*(torch.zeros(len(child), dtype=torch.int64) for _ in range(3)))
    roots = found.recovered[: len(world.children)].nonzero().flatten()
    alone, silent_alone = (torch.zeros(len(roots), dtype=torch.int64) for _ in range(2))
    for batch in batches:
        z = torch.where(has, coder.encode(batch)[:, latent], 0.0)  # of the latent of every feature
        a, active = batch.activations, batch.activations > 0
        true += active.sum(dim=0)
        fired += (z > 0).sum(dim=0)
        both += (active & (z > 0)).sum(dim=0)
        together = active[:, child] & active[:, parent]
        silent = together & (z[:, parent] <= 0)
        sums.together.add_(together.sum(dim=0))
        sums.silent.add_(silent.sum(dim=0))
        sums.absorbed.add_((silent & (z[:, child] * written >= CARRIED * a[:, parent])).sum(dim=0))
        childless = active[:, roots] & ~active[:, world.children[roots]].any(dim=2)
        alone += childless.sum(dim=0)
        silent_alone += (childless & (z[:, roots] <= 0)).sum(dim=0)
    return Counts(true, fired, both, sums, alone, silent_alone)


def share(part: Int[Tensor, " n"], of: Int[Tensor, " n"]) -> Float[np.ndarray, " n"]:
    """Return shares; 0 of nothing is NaN."""
    return np.where(of > 0, part / of.clamp_min(1), np.nan)


def mean(values: Float[np.ndarray, " n"]) -> float | None:
    """Return the mean of what is a number; None if nothing is."""
    return float(np.nanmean(values)) if np.isfinite(values).any() else None


def deciles(values: Float[np.ndarray, " features"]) -> list[float]:
    """Return means over tenths of the features, the most frequent ones first."""
    return [float(part.mean()) for part in np.array_split(values, NUM_DECILES)]


def measure(coder: Coder, world: World, num_batches: int, num_tokens: int) -> dict[str, Any]:
    """Measure a coder on the test split, in two passes: what is live, then the firing of what was matched.

    ``precision``: share of the live latents that recover a feature. ``recall``: share of the features recovered.
    ``cosine``: of every feature and its latent, as a mean; 0 without one. ``firing_precision``, ``firing_recall``,
    ``firing_f1``: means over recovered features; ``f1``: over all, each with its latent whatever their cosine.
    ``silent``: of the tokens in which a recovered parent and a child fire, the share in which the parent's latent is
    silent; ``absorbed``: the share in which, besides, the child's latent writes at least half of the parent's
    activation along its direction (means over children); ``silent_alone``: the same share without a child (a mean over
    parents). None where there is nothing to measure.
    """

    def batches() -> Iterator[Batch]:
        return (world.batch(number, num_tokens, "test") for number in range(num_batches))

    num_fired = torch.zeros(len(coder.directions), dtype=torch.int64)
    error, square, total = 0.0, 0.0, torch.zeros(world.setting.width, dtype=torch.float64)
    for batch in batches():
        z = coder.encode(batch)
        num_fired += (z > 0).sum(dim=0)
        error += float((batch.x - z @ coder.directions - coder.bias).double().pow(2).sum())
        square += float(batch.x.double().pow(2).sum())
        total += batch.x.double().sum(dim=0)
    num = num_batches * num_tokens
    live = num_fired > 0
    found = match(coder.directions, live, world.directions)
    counts = count(coder, world, found, batches())
    recovered = found.recovered.numpy()
    f1 = 2 * counts.both.numpy() / np.maximum((counts.true + counts.fired).numpy(), 1)
    of = counts.absorption
    return {
        "num_live": int(live.sum()),
        "l0": float(num_fired.sum()) / num,
        "fvu": error / (square - float(total.pow(2).sum()) / num),
        "precision": float(recovered.sum()) / max(int(live.sum()), 1),
        "recall": float(recovered.mean()),
        "cosine": float(found.cosine.mean()),
        "firing_precision": mean(share(counts.both, counts.fired)[recovered]),
        "firing_recall": mean(share(counts.both, counts.true)[recovered]),
        "firing_f1": mean(f1[recovered]),
        "f1": float(f1.mean()),
        "silent": mean(share(of.silent, of.together)),
        "absorbed": mean(share(of.absorbed, of.together)),
        "silent_alone": mean(share(counts.silent_alone, counts.alone)),
        "recall_by_decile": deciles(recovered.astype(float)),
        "f1_by_decile": deciles(f1),
    }
