"""The vectors that the dictionaries of several seeds are compared by, and those of the nulls in another's place."""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ard.activations import ProbeBatch
from ard.activations.layer import Layer, read_layer
from ard.activations.stream import Probe
from ard.evaluation.alignment import drawn_tokens, like_tokens, rotated, shuffled_coordinates
from ard.monosemanticity import Selection
from ard.probing.module import score
from ard.run import Cell
from ard.sae import Dictionary, TopKSAE
from ard.types import UserError

MOST_LIVE = 4096  # live features of the first run that are paired with all of the other's; more are drawn from
MOST_CLIPS = 512  # clips of a profile
MOST_SHARDS = 16  # shards that tokens are drawn from
LEAST_TOKENS = 8192  # drawn for the covariance
CLIPS_PER_BATCH = 32

SHUFFLED, ROTATED, GAUSSIAN, TOKENS, PERMUTED = NULLS = (
    "shuffled coordinates",
    "random rotation",
    "Gaussian with the covariance of x",
    "random tokens",
    "permuted clips",
)
"""What the other dictionary is replaced by. For profiles, the directions of the last but one and the one before become
a dictionary of as many features that keeps as many a token, and was never trained."""

Vectors = Float[Tensor, "_ _"]  # one for each feature


class Side(NamedTuple):
    """One dictionary: the vectors of its live features by measure, and the features that they belong to."""

    vectors: Mapping[str, Vectors]
    live: Int[Tensor, " live"]


class Data(NamedTuple):
    """A sample of the first run's tokens, and its clips, to be read again and again."""

    x: Float[Tensor, "tokens d_in"]
    clips: Callable[[], Iterator[ProbeBatch]]
    num_clips: int


def read_data(cell: Cell, widest: int, generator: torch.Generator) -> tuple[Data | None, list[str]]:
    """Return what is read of the first run's activations, and what cannot be measured without them."""
    try:
        tokens, clips = read_layer(cell.probe, cell.layer), read_layer(cell.splits[cell.unseen], cell.layer)
    except UserError as error:
        return None, [f"profiles, and the nulls {GAUSSIAN!r} and {TOKENS!r}: {error}"]
    order = torch.randperm(len(clips.shards), generator=generator).tolist()
    until = np.cumsum([len(clips.shards[place].clip_ids) for place in order]).searchsorted(MOST_CLIPS)
    part = clips._replace(shards=tuple(clips.shards[place] for place in sorted(order[: until + 1])))
    num_clips = min(MOST_CLIPS, sum(len(shard.clip_ids) for shard in part.shards))
    x = _sample(tokens, max(LEAST_TOKENS, widest), generator)
    return Data(x, lambda: iter(Probe(part, CLIPS_PER_BATCH)), num_clips), []


def _sample(layer: Layer, count: int, generator: torch.Generator) -> Float[Tensor, "tokens d_in"]:
    """Return about as many tokens, as many of each of a few shards."""
    order = torch.randperm(len(layer.shards), generator=generator)[:MOST_SHARDS].tolist()
    parts = []
    for _, xs in layer.read(order):
        x = torch.cat(xs)
        parts.append(x[torch.randperm(len(x), generator=generator)[: -(-count // len(order))]].float())
    x = torch.cat(parts)
    return x[x.isfinite().all(dim=1)]


def side_of(cell: Cell, dictionary: Dictionary, data: Data | None) -> Side:
    """Return the vectors of the live features."""
    live = torch.arange(dictionary.d_sae)
    if cell.path("representatives").is_file():
        live = (cell.tensors("representatives")["n_active"] > 0).nonzero()[:, 0]
    vectors = {"decoder": dictionary.directions().float()}
    if (encoder := getattr(dictionary, "W_enc", None)) is not None:
        vectors["encoder"] = encoder.detach().T.float()
    if data is not None:
        vectors["profile"] = _profiles(dictionary, data)
    return Side({measure: of[live] for measure, of in vectors.items()}, live)


@torch.inference_mode()
def _profiles(dictionary: Dictionary, data: Data) -> Float[Tensor, "features clips"]:
    """Return every feature's score (Eq. 2) in each clip, less its mean."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dictionary, profiles, filled = dictionary.to(device), torch.zeros(dictionary.d_sae, data.num_clips), 0
    for batch in data.clips():
        x, clip_of_token, rows = (part.to(device) for part in batch[:3])
        scores = score(dictionary, ProbeBatch(x, clip_of_token, rows, batch.metadata)).scores.ard[
            : data.num_clips - filled
        ]
        profiles[:, filled : filled + len(scores)] = scores.T.float()
        filled += len(scores)
        if filled == data.num_clips:
            break
    dictionary.to("cpu")
    return profiles - profiles.mean(dim=1, keepdim=True)


def own_vectors(side: Side, selection: Selection, generator: torch.Generator) -> dict[str, tuple[Vectors, Vectors]]:
    """Return the first run's vectors by measure: those of its concepts, and of its live features or a part of them."""
    drawn = torch.randperm(len(side.live), generator=generator)[:MOST_LIVE].sort().values
    place = torch.searchsorted(side.live, selection.features)
    return {measure: (of[place], of[drawn]) for measure, of in side.vectors.items() if of[place].any()}


def null_vectors(
    dictionary: Dictionary, side: Side, data: Data | None, generator: torch.Generator
) -> Iterator[tuple[str, Mapping[str, Vectors]]]:
    """Yield every null of one of the other runs, with its vectors by measure."""
    directions = {measure: of for measure, of in side.vectors.items() if measure != "profile"}
    for name, change in ((SHUFFLED, shuffled_coordinates), (ROTATED, rotated)):
        yield name, {measure: change(of, generator) for measure, of in directions.items()}
    if data is None:
        return
    for name, draw in ((GAUSSIAN, like_tokens), (TOKENS, drawn_tokens)):
        drawn = draw(data.x, dictionary.d_sae, generator)
        by_measure = dict.fromkeys(directions, drawn[: len(side.live)])
        yield name, by_measure | {"profile": _profiles(_untrained(dictionary, drawn, data), data)}
    yield PERMUTED, {"profile": shuffled_coordinates(side.vectors["profile"], generator)}


def _untrained(dictionary: Dictionary, directions: Vectors, data: Data) -> TopKSAE:
    """Return a dictionary of these directions that keeps as many features a token as another one does."""
    with torch.no_grad():
        k = round(float((dictionary.encode(data.x[:1024]).values != 0).sum(dim=1).double().mean()))
        sae = TopKSAE(dictionary.d_in, len(directions), k=min(max(k, 1), len(directions)), pre_bias=True)
        sae.W_dec.copy_(torch.nn.functional.normalize(directions, dim=-1))
        sae.W_enc.copy_(sae.W_dec.T)
        sae.b_dec.copy_(data.x.mean(dim=0))
    return sae
