"""Retrieve the representative clips of every feature while `test` streams the probing set."""

from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import safe_open
from torch import Tensor

from ard.activations import ProbeBatch
from ard.probing import Evaluator, Scored
from ard.representatives.functional import ACTIVATION_EDGES, LEAST_P, Ties, activation_quantiles
from ard.representatives.metric import HALVES, RandomActiveClips, RepresentativeClips
from ard.results import Result
from ard.run import Cell
from ard.sae import Dictionary
from ard.types import UserError

RANDOM_ACTIVE = "random_active/top_ids"
QUANTILE_LEVELS = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95], dtype=torch.float64)


def read_ties(cell: Cell) -> dict[str, str]:
    """Read the rule by which ties between equal scores were broken when a dictionary's representatives were chosen."""
    with safe_open(cell.path("representatives"), framework="pt") as stored:
        return stored.metadata() or {}


def read_maxima(cell: Cell | Path) -> Float[Tensor, " features"]:
    """Read every feature's largest activation on a token of the probing set, which is the unit of steering values.

    Args:
        cell: the dictionary's, or its folder, ``OUT/layer-<l>/e<e>``.

    Raises:
        UserError: if no representatives were retrieved there.
    """
    cell = cell if isinstance(cell, Cell) else Cell.at(cell)
    return cell.tensors("representatives")["max_activation"]


class RetrieveRepresentatives(Evaluator):
    """Write ``representatives.safetensors``: the p most and least representative clips by every scorer (Eq. 2).

    Its tensors for every feature, with clips given as rows of clips.parquet:

    - ``<scorer>/top_ids``, ``bottom_ids`` [features, p]: H^k, best first, and L^k, worst first; ``top_scores``,
      ``bottom_scores``.
    - ``<scorer>/top_strongest``, ``top_first``, ``top_last`` [features, p]: in each clip of H^k, the audio token where
      the feature is strongest, and the first and last where it is active; -1 if it is silent. Token t covers the time
      from t to t + 1 times ``seconds_per_token`` of clips.parquet.
    - ``n_active`` [features]: number of clips where it is active; ``max_activation`` [features]: its largest activation
      on a token.
    - ``activation_histogram`` [features, bins]: number of tokens where it is active, by activation. Bin i lies between
      ``activation_edges`` i and i + 1; the outermost bins take everything beyond.
    - ``activation_quantiles`` [features, levels] at ``quantile_levels``: from the histogram, hence accurate to 9 %.
    - ``num_clips``, ``num_tokens``: number of clips and tokens seen.
    - ``half0/top_ids``, ``half0/bottom_ids`` [features, p], ``half0/n_active`` [features], and ``half1/...``: the lists
      of Eq. 2 among half of the clips, as if the others were not there; ``half_seed`` decides which (see
      :func:`~ard.representatives.functional.half_of`). They are left out if a half has fewer than p clips.
    - ``random_active/top_ids`` [draws, features, p], with ``num_random``: random clips where the feature is active.

    Args:
        p: clips in each list (the paper's 4), at least 3.
        ties: see :class:`~ard.representatives.RepresentativeClips`.
        tie_seed: see :class:`~ard.representatives.RepresentativeClips`.
        num_random: draws of random clips in which a feature is active, for a reading of `Rand. Rep.`
        random_seed: seed for these draws.
        half_seed: seed that divides the clips into halves; the same for all dictionaries that are to be compared.
    """

    makes = ("representatives",)

    def __init__(
        self,
        p: int = 4,
        *,
        ties: Ties = "stable",
        tie_seed: int = 0,
        num_random: int = 0,
        random_seed: int = 0,
        half_seed: int = 0,
    ) -> None:
        super().__init__()
        self.p, self.ties, self.tie_seed = p, ties, tie_seed
        self.num_random, self.random_seed = num_random, random_seed
        self.half_seed = half_seed

    def check(self, cell: Cell) -> None:
        """Refuse lists too short for a score.

        Raises:
            UserError: if p is less than 3.
        """
        if self.p < LEAST_P:
            raise UserError(
                f"p is {self.p}, and fewer than {LEAST_P} clips have no spread that m could be measured by: "
                f"give p {LEAST_P} or more"
            )

    def start(self, cell: Cell, dictionary: Dictionary) -> None:
        """Start empty lists."""
        self._pre_activations = dictionary.pre_activations
        self._lists = RepresentativeClips(
            dictionary.d_sae, self.p, ties=self.ties, tie_seed=self.tie_seed, half_seed=self.half_seed
        )
        self._random = RandomActiveClips(dictionary.d_sae, self.p, self.num_random, seed=self.random_seed)
        self._lists.to(self.device)
        self._random.to(self.device)

    def update(self, split: str, scored: Scored) -> None:
        """Fold in a batch of the probing set."""
        if split != "probe":
            return
        batch, codes, scores = scored
        pre_activations = self._pre_activations(_mean_x(batch)) if self.ties == "preact" else None
        self._lists.update(codes, batch.clip_of_token, batch.rows, pre_activations, scores)
        if self.num_random:
            self._random.update(scores, batch.rows)

    def gather(self) -> None:
        """Gather the lists of all ranks."""
        lists, statistics, halves = self._lists.compute()
        tensors = statistics._asdict()
        for scorer, of_scorer in lists.items():
            tensors |= {f"{scorer}/{name}": tensor for name, tensor in of_scorer._asdict().items()}
        quantiles = activation_quantiles(statistics.activation_histogram, QUANTILE_LEVELS)
        tensors |= {"activation_quantiles": quantiles, "quantile_levels": QUANTILE_LEVELS}
        tensors["activation_edges"] = ACTIVATION_EDGES
        for name, half in zip(HALVES, halves, strict=False):
            tensors |= {f"{name}/{field}": tensor for field, tensor in half._asdict().items()}
        tensors["half_seed"] = torch.tensor(self.half_seed)
        if self.num_random:
            tensors[RANDOM_ACTIVE] = self._random.compute()
        self._gathered = tensors
        self._lists.reset()
        self._random.reset()

    def evaluate(self, cell: Cell) -> Result | None:
        """Write the lists; they contain no figure to report."""
        metadata = {"ties": self.ties} | ({"tie_seed": str(self.tie_seed)} if "random" in self.ties else {})
        cell.save_tensors("representatives", self._gathered, metadata)
        del self._gathered
        return None


def _mean_x(batch: ProbeBatch) -> Float[Tensor, "clips d_in"]:
    """Return the mean of x over each clip; an affine map of it is that map's mean over the clip."""
    total = batch.x.new_zeros(len(batch.rows), batch.x.shape[1]).index_add_(0, batch.clip_of_token, batch.x)
    num_tokens = torch.bincount(batch.clip_of_token, minlength=len(batch.rows))
    return total / num_tokens[:, None]
