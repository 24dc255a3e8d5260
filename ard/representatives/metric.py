"""The p most and p least representative clips of every feature, kept as the data streams by."""

from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import Metric

from ard.probing.functional import SCORERS, ClipScores, clip_scores
from ard.representatives.functional import (
    ACTIVATION_EDGES,
    ActiveCodes,
    Places,
    Ties,
    active_codes,
    active_places,
    half_of,
    tie_keys,
)
from ard.types import Codes

NO_CLIP = -1  # the row of an empty slot
HALVES = ("half0", "half1")


class Representatives(NamedTuple):
    """H^k (best first) and L^k (worst first) of every feature, as rows of the probing set; its places in H^k."""

    top_scores: Float[Tensor, "features p"]
    top_ids: Int[Tensor, "features p"]
    bottom_scores: Float[Tensor, "features p"]
    bottom_ids: Int[Tensor, "features p"]
    top_strongest: Int[Tensor, "features p"]  # token from the start of the clip; -1 if silent
    top_first: Int[Tensor, "features p"]
    top_last: Int[Tensor, "features p"]


class Statistics(NamedTuple):
    """How often and how strongly every feature is active."""

    n_active: Int[Tensor, " features"]  # number of clips
    max_activation: Float[Tensor, " features"]  # on a single token: the unit of steering values
    activation_histogram: Int[Tensor, "features bins"]  # number of tokens by activation, see ``ACTIVATION_EDGES``
    num_clips: Int[Tensor, ""]
    num_tokens: Int[Tensor, ""]


class Half(NamedTuple):
    """H^k and L^k of every feature by Eq. 2 among half of the clips, and on how many of these it is active."""

    top_ids: Int[Tensor, "features p"]
    bottom_ids: Int[Tensor, "features p"]
    n_active: Int[Tensor, " features"]


class Retrieved(NamedTuple):
    """The lists of every scorer, the statistics, and the lists of both halves, if these have p clips each."""

    lists: dict[str, Representatives]
    statistics: Statistics
    halves: tuple[Half, ...]


class Rule(NamedTuple):
    """Which of two slots goes first: that with the larger or the smaller score; the tie rule decides between equals."""

    largest: bool
    ties: Ties
    seed: int


def keep_best(
    slots: Float[Tensor, "features slots entries"], features: Int[Tensor, " features"], p: int, rule: Rule
) -> Float[Tensor, "features p entries"]:
    """Keep the p best slots (score, row, pre-activation, ...) of each feature; the tie rule orders equal scores.

    Associative and commutative: batches, ranks and earlier runs can be merged in any order.
    """
    scores, rows = slots[..., 0], slots[..., 1].long()
    keys = tie_keys(rows, features[:, None], rule.ties, rule.seed).masked_fill(rows < 0, torch.iinfo(torch.int64).max)
    order = keys.argsort(dim=1, stable=True)
    for values in (slots[..., 2], scores) if rule.ties == "preact" else (scores,):
        order = order.gather(1, values.gather(1, order).argsort(dim=1, descending=rule.largest, stable=True))
    return slots.take_along_dim(order[:, :p, None], dim=1)


def _merge(ranks: Float[Tensor, "ranks features p entries"], p: int, rule: Rule) -> Tensor:
    """Merge the lists of all ranks into one; torchmetrics calls this when it synchronises."""
    slots = torch.cat(tuple(ranks), dim=1)
    return keep_best(slots, torch.arange(len(slots), device=slots.device), p, rule)


class RepresentativeClips(Metric):
    """Find the clips that represent each feature most (H^k) and least (L^k), by all scorers in one pass (Sec. 2.2).

    It also keeps where in each clip of H^k the feature is active, the number of clips where it is active, a histogram
    of its activations on tokens, and the largest. By Eq. 2 it keeps the lists of both halves of the clips too (see
    :func:`~ard.representatives.functional.half_of`): what is chosen on one can be tested on the other. Memory is a
    small multiple of ``num_features * p``, however many clips are seen. The result does not depend on batch size, order
    or world size. ``state_dict`` includes the state, so that an earlier run can be loaded and merged (``merge_state``).

    Args:
        num_features: width of the dictionary.
        p: clips in each list.
        ties: order of equal scores, see :func:`~ard.representatives.functional.tie_keys`. Most features are silent on
            most clips, so L^k is a choice among ties; the paper's figures look like ``stable``.
        tie_seed: seed for the random orders.
        half_seed: seed that divides the clips into halves.
        kwargs: passed to :class:`torchmetrics.Metric`.

    Raises:
        ValueError: on construction, if ``p`` is not positive; in ``update``, if a score is not finite, or if ties need
            pre-activations that are not given; in ``compute``, if fewer than ``p`` clips were seen, or one clip fills
            two slots of a list.
    """

    full_state_update = False
    n_active: Int[Tensor, " features"]
    max_activation: Float[Tensor, " features"]
    activation_histogram: Int[Tensor, "features bins"]
    num_clips: Int[Tensor, ""]
    num_tokens: Int[Tensor, ""]
    half_n_active: Int[Tensor, "2 features"]
    half_num_clips: Int[Tensor, " 2"]

    def __init__(
        self,
        num_features: int,
        p: int,
        *,
        ties: Ties = "stable",
        tie_seed: int = 0,
        half_seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if p < 1:
            raise ValueError(f"p must be at least 1 clip, got {p}")
        self.num_features, self.p, self.half_seed = num_features, p, half_seed
        self.rules = {side: Rule(side == "top", ties, tie_seed) for side in ("top", "bottom")}
        num_bins = len(ACTIVATION_EDGES) - 1
        num_places = {(scorer, "top"): len(Places._fields) for scorer in SCORERS}
        for name in (*SCORERS, *HALVES):
            for side, worst in (("top", -torch.inf), ("bottom", torch.inf)):
                entries = [worst, NO_CLIP, 0.0] + [0.0] * num_places.get((name, side), 0)
                empty = torch.tensor(entries, dtype=torch.float64).repeat(num_features, p, 1)
                self.add_state(f"{name}_{side}", empty, partial(_merge, p=p, rule=self.rules[side]), persistent=True)
        self.add_state("max_activation", torch.zeros(num_features), "max", persistent=True)
        counts = {"n_active": [num_features], "activation_histogram": [num_features, num_bins]}
        counts |= {"half_n_active": [len(HALVES), num_features], "half_num_clips": [len(HALVES)]}
        for name, shape in counts.items():
            self.add_state(name, torch.zeros(shape, dtype=torch.int64), "sum", persistent=True)
        self.add_state("num_clips", torch.tensor(0), "sum", persistent=True)
        self.add_state("num_tokens", torch.tensor(0), "sum", persistent=True)

    def update(
        self,
        codes: Codes,
        clip_of_token: Int[Tensor, " tokens"],
        rows: Int[Tensor, " clips"],
        pre_activations: Float[Tensor, "clips features"] | None = None,
        scores: ClipScores | None = None,
    ) -> None:
        """Add a batch of whole clips, their tokens clip by clip.

        Args:
            codes: codes of the clips' tokens.
            clip_of_token: index of each token's clip in the batch.
            rows: row of each clip in the probing set.
            pre_activations: mean pre-activations over each clip; needed if ties are broken by them.
            scores: scores of the clips; computed if not given.
        """
        scores = scores or clip_scores(codes, clip_of_token, len(rows), self.num_features)
        if not scores.mean.isfinite().all():
            bad = rows[~scores.mean.isfinite().all(dim=1)].tolist()
            raise ValueError(f"clips in rows {bad} have a NaN or infinite score: check their activation shards")
        if pre_activations is None:
            if self.rules["top"].ties == "preact":
                raise ValueError("ties 'preact' need the clips' mean pre-activations: give them")
            pre_activations = scores.mean.new_zeros(1, 1).expand_as(scores.mean)
        self.num_tokens += len(clip_of_token)
        active = active_codes(codes, clip_of_token)
        self._count(active, scores)
        places = active_places(active, len(rows), self.num_features)
        for scorer, of_clips in scores._asdict().items():
            self._fold(f"{scorer}_top", self.rules["top"], rows, of_clips, pre_activations, *places)
            self._fold(f"{scorer}_bottom", self.rules["bottom"], rows, of_clips, pre_activations)
        of_half = half_of(rows, self.half_seed)
        for number, name in enumerate(HALVES):
            clips = (of_half == number).nonzero()[:, 0]
            if len(clips):
                self.half_num_clips[number] += len(clips)
                self.half_n_active[number] += (scores.coverage[clips] > 0).sum(dim=0)
                for side, rule in self.rules.items():
                    self._fold(f"{name}_{side}", rule, rows[clips], scores.ard[clips], pre_activations[clips])

    def _count(self, active: ActiveCodes, scores: ClipScores) -> None:
        self.max_activation.scatter_reduce_(0, active.features, active.values, "amax")
        inner = ACTIVATION_EDGES[1:-1].to(active.values.device)
        bins = active.features * (len(inner) + 1) + torch.bucketize(active.values, inner, right=True)
        self.activation_histogram.view(-1).index_add_(0, bins, torch.ones_like(bins))
        self.n_active += (scores.coverage > 0).sum(dim=0)
        self.num_clips += len(scores.mean)

    def _fold(
        self,
        state: str,
        rule: Rule,
        rows: Int[Tensor, " clips"],
        scores: Float[Tensor, "clips features"],
        pre_activations: Float[Tensor, "clips features"],
        *places: Int[Tensor, "clips features"],
    ) -> None:
        """Merge a batch into a list, only for features with a clip that may beat the last one kept: soon very few."""
        slots: Tensor = getattr(self, state)
        last, every = slots[:, -1], torch.arange(self.num_features, device=rows.device)
        best = scores.amax(dim=0) if rule.largest else scores.amin(dim=0)
        beaten = best > last[:, 0] if rule.largest else best < last[:, 0]
        keys = tie_keys(rows[:, None], every[None], rule.ties, rule.seed)
        earlier = keys.amin(dim=0) < tie_keys(last[:, 1].long(), every, rule.ties, rule.seed)
        if rule.ties == "preact":
            ahead = pre_activations >= last[:, 2] if rule.largest else pre_activations <= last[:, 2]
            earlier = (ahead & (scores == last[:, 0])).any(dim=0)
        features = (beaten | ((best == last[:, 0]) & earlier)).nonzero()[:, 0]
        others = (x[:, features] for x in (pre_activations, *places))
        entries = [scores[:, features], rows[:, None].expand(-1, len(features)), *others]
        batch = torch.stack([entry.T.double() for entry in entries], dim=-1)
        slots[features] = keep_best(torch.cat([slots[features], batch], dim=1), features, self.p, rule)

    def compute(self) -> Retrieved:
        """Return the lists and the statistics over all ranks."""
        if self.num_clips < self.p:
            raise ValueError(f"{self.p} representatives asked for, but only {int(self.num_clips)} clips were seen")
        lists = {}
        for scorer in SCORERS:
            top, bottom = getattr(self, f"{scorer}_top"), getattr(self, f"{scorer}_bottom")
            for slots in (top, bottom):
                rows = slots[..., 1].sort(dim=1).values
                twice = rows[:, 1:][rows.diff(dim=1) == 0].unique().long().tolist()
                if twice:
                    raise ValueError(f"clips in rows {twice} fill two slots: do two ranks or workers read one shard?")
            top_scores, top_ids, _, *places = (entry.contiguous() for entry in top.unbind(-1))
            bottom_scores, bottom_ids, _ = (entry.contiguous() for entry in bottom.unbind(-1))
            rows_and_places = (entry.long() for entry in (bottom_ids, *places))
            lists[scorer] = Representatives(top_scores, top_ids.long(), bottom_scores, *rows_and_places)
        statistics = Statistics(*(getattr(self, name).clone() for name in Statistics._fields))
        return Retrieved(lists, statistics, self._halves())

    def _halves(self) -> tuple[Half, ...]:
        if (self.half_num_clips < self.p).any():
            return ()
        return tuple(
            Half(getattr(self, f"{name}_top")[..., 1].long(), getattr(self, f"{name}_bottom")[..., 1].long(), n.clone())
            for name, n in zip(HALVES, self.half_n_active, strict=True)
        )


class RandomActiveClips(Metric):
    """For each feature, draw p random clips where it is active, several times, in one pass.

    For a feature that is active in fewer than p clips, inactive ones fill up the draw. Memory is a small multiple of
    ``num_draws * num_features * p``, however many clips are seen. The draws do not depend on batch size, order or world
    size.

    Args:
        num_features: width of the dictionary.
        p: clips in each draw.
        num_draws: number of draws.
        seed: seed for the draws.
        kwargs: passed to :class:`torchmetrics.Metric`.
    """

    full_state_update = False

    def __init__(self, num_features: int, p: int, num_draws: int, *, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_features, self.p = num_features, p
        self.rules = [Rule(True, "seeded_random", seed + draw) for draw in range(num_draws)]
        empty = torch.tensor([-1.0, NO_CLIP, 0.0], dtype=torch.float64).repeat(num_features, p, 1)
        for draw, rule in enumerate(self.rules):
            self.add_state(f"draw_{draw}", empty.clone(), partial(_merge, p=p, rule=rule))

    def update(self, scores: ClipScores, rows: Int[Tensor, " clips"]) -> None:
        """Add a batch of clips."""
        active = scores.coverage > 0
        for draw, rule in enumerate(self.rules):
            slots: Tensor = getattr(self, f"draw_{draw}")
            features = (active.any(dim=0) | (slots[:, -1, 0] <= 0)).nonzero()[:, 0]
            of_features = active[:, features].T.double()
            batch = torch.stack([of_features, rows.expand_as(of_features), torch.zeros_like(of_features)], dim=-1)
            slots[features] = keep_best(torch.cat([slots[features], batch], dim=1), features, self.p, rule)

    def compute(self) -> Int[Tensor, "draws features p"]:
        """Return the rows of the clips, over all ranks."""
        drawn: list[Tensor] = [getattr(self, f"draw_{draw}") for draw in range(len(self.rules))]
        return torch.stack([slots[..., 1].long() for slots in drawn])
