"""The p most and the p least representative clips of every feature, kept while the data streams by."""

from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import Metric

from ard.representatives.functional import SCORERS, clip_scores, tie_keys
from ard.types import Codes

NO_CLIP = -1  # row in a slot that no clip has filled yet


class Representatives(NamedTuple):
    """H^k and L^k of every feature: best first and worst first, as rows of the probing set."""

    top_scores: Float[Tensor, "features p"]
    top_ids: Int[Tensor, "features p"]
    bottom_scores: Float[Tensor, "features p"]
    bottom_ids: Int[Tensor, "features p"]


def keep_best(
    slots: Float[Tensor, "features slots 2"], p: int, largest: bool, tie_seed: int | None
) -> Float[Tensor, "features p 2"]:
    """Keep the p best slots (score, row) of every feature; equal scores go by the tie rule.

    Associative and commutative, so that one rule folds in a batch, a rank or an earlier run, in any order.
    """
    scores, rows = slots.unbind(-1)
    keys = tie_keys(rows.long(), tie_seed).masked_fill(rows < 0, torch.iinfo(torch.int64).max)
    by_key = keys.argsort(dim=1, stable=True)
    by_score = scores.gather(1, by_key).argsort(dim=1, descending=largest, stable=True)[:, :p]
    return slots.take_along_dim(by_key.gather(1, by_score)[..., None], dim=1)


def _merge(ranks: Float[Tensor, "ranks features p 2"], p: int, largest: bool, tie_seed: int | None) -> Tensor:
    """Fold one list per rank into one; torchmetrics calls this when it synchronises."""
    return keep_best(torch.cat(tuple(ranks), dim=1), p, largest, tie_seed)


class RepresentativeClips(Metric):
    """Find the clips that stand for each feature most (H^k) and least (L^k), for all scorers in one pass (Sec. 2.2).

    Beside the lists it keeps of every feature on how many clips it is active (``n_active``) and its largest activation
    on a token (``max_activation``, the unit of steering values). Memory is a small multiple of ``num_features * p``
    however many clips are seen, and the answer does not depend on batch size, order or world size.

    Args:
        num_features: width of the dictionary.
        p: clips in each list.
        tie_seed: None breaks ties by the order of the data set; a number by a hash seeded with it. Most features are
            silent on most clips, so that L^k is a choice among ties; the paper's figures look like the former.
        kwargs: passed to :class:`torchmetrics.Metric`.

    Raises:
        ValueError: on construction if ``p`` is not positive; in ``update`` if a score is not finite; in ``compute`` if
            fewer than ``p`` clips were seen or one fills two slots of a list.
    """

    full_state_update = False
    n_active: Int[Tensor, " features"]
    max_activation: Float[Tensor, " features"]
    num_clips: Int[Tensor, ""]

    def __init__(self, num_features: int, p: int, tie_seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if p < 1:
            raise ValueError(f"p must be at least 1 clip, got {p}")
        self.num_features, self.p, self.tie_seed = num_features, p, tie_seed
        for scorer in SCORERS:
            for side, worst in (("top", -torch.inf), ("bottom", torch.inf)):
                empty = torch.tensor([worst, NO_CLIP], dtype=torch.float64).repeat(num_features, p, 1)
                merge = partial(_merge, p=p, largest=side == "top", tie_seed=tie_seed)
                self.add_state(f"{scorer}_{side}", empty, dist_reduce_fx=merge)
        self.add_state("max_activation", torch.zeros(num_features), dist_reduce_fx="max")
        self.add_state("n_active", torch.zeros(num_features, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("num_clips", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, codes: Codes, clip_of_token: Int[Tensor, " tokens"], rows: Int[Tensor, " clips"]) -> None:
        """Fold a batch of whole clips in; ``rows`` are their rows in the probing set."""
        scores = clip_scores(codes, clip_of_token, len(rows), self.num_features)
        if not scores.mean.isfinite().all():
            bad = rows[~scores.mean.isfinite().all(dim=1)].tolist()
            raise ValueError(f"clips in rows {bad} have a NaN or infinite score: look at their activation shards")
        strongest = codes.values.flatten().float()
        self.max_activation.scatter_reduce_(0, codes.indices.flatten(), strongest, "amax")
        self.n_active += (scores.coverage > 0).sum(dim=0)
        self.num_clips += len(rows)
        for scorer, of_clips in scores._asdict().items():
            slots = torch.stack([of_clips.T, rows.double().expand(self.num_features, -1)], dim=-1)
            for side in ("top", "bottom"):
                state = torch.cat([getattr(self, f"{scorer}_{side}"), slots], dim=1)
                setattr(self, f"{scorer}_{side}", keep_best(state, self.p, side == "top", self.tie_seed))

    def compute(self) -> dict[str, Representatives]:
        """Return the lists of every scorer, over all ranks."""
        if self.num_clips < self.p:
            raise ValueError(f"{self.p} representatives asked for, but only {int(self.num_clips)} clips were seen")
        found = {}
        for scorer in SCORERS:
            top, bottom = getattr(self, f"{scorer}_top"), getattr(self, f"{scorer}_bottom")
            for slots in (top, bottom):
                rows = slots[..., 1].sort(dim=1).values
                twice = rows[:, 1:][rows.diff(dim=1) == 0].unique().long().tolist()
                if twice:
                    raise ValueError(f"clips in rows {twice} fill two slots: do two ranks or workers read one shard?")
            found[scorer] = Representatives(top[..., 0], top[..., 1].long(), bottom[..., 0], bottom[..., 1].long())
        return found
