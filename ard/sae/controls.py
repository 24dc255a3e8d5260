"""Dictionaries that were never trained: what a figure must exceed before it says anything about training.

Compare "Sanity checks for sparse autoencoders" (arXiv 2602.14111) and Heap et al. (arXiv 2501.17727).
"""

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ard.results import Control
from ard.sae.autoencoder import SAE


def make_control(kind: Control, trained: SAE, batches: Iterable[Tensor], num_tokens: int, seed: int) -> SAE:
    """Return an SAE of the same width, K and b_dec as a trained one, whose directions nobody trained.

    The encoder is the decoder's transpose, without a bias. ``untrained``: directions drawn from a Gaussian.
    ``tokens``: as many tokens of x as there are directions, centred. An SAE without ``pre_bias`` has a b_dec of 0,
    which would make a weak control: the controls are then centred by the mean of x.

    Args:
        kind: the kind of directions.
        trained: the SAE to be compared with.
        batches: the activations x, once through, each [tokens, d_in].
        num_tokens: how many tokens they have.
        seed: seed of the draw.

    Raises:
        UserError: if the trained SAE is of a kind that has no untrained counterpart.
    """
    generator = torch.Generator().manual_seed(seed)
    centre = trained.b_dec.detach().clone() if trained.pre_bias else None
    directions = torch.randn(trained.d_sae, trained.d_in, generator=generator)
    if kind == "tokens" or centre is None:
        drawn = torch.randint(num_tokens, (trained.d_sae,), generator=generator)
        mean, tokens = _mean_and_tokens(batches, drawn)
        centre = mean if centre is None else centre
        directions = tokens - centre if kind == "tokens" else directions
    facts: dict[str, Any] = {
        name: trained.metadata[name] for name in ("model_name", "layer") if name in trained.metadata
    }
    facts |= {"control": kind, "control_seed": seed}
    return trained.with_directions(torch.nn.functional.normalize(directions, dim=-1), centre, facts)


def _mean_and_tokens(
    batches: Iterable[Tensor], drawn: Tensor
) -> tuple[Float[Tensor, " d_in"], Float[Tensor, "drawn d_in"]]:
    """Return the mean of all tokens, and the tokens at some places, in one pass."""
    order = drawn.argsort()
    places, start = drawn[order], 0
    picked, total = [], torch.zeros((), dtype=torch.float64)
    for x in batches:
        inside = places[(places >= start) & (places < start + len(x))]
        picked.append(x[inside - start].float())
        total = total + x.double().sum(dim=0)
        start += len(x)
    tokens = torch.cat(picked)
    return (total / start).float(), tokens[order.argsort()]
