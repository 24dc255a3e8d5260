"""Retrieve the representative clips of every feature while `test` streams the probing set."""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from lightning import Callback, LightningModule, Trainer
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ard.activations import ProbeBatch
from ard.representatives.functional import ACTIVATION_EDGES, Ties, activation_quantiles
from ard.representatives.metric import RandomActiveClips, RepresentativeClips
from ard.results import replacing
from ard.sae import Encoding, SparseCoder
from ard.types import UserError

FILE = "representatives.safetensors"
RANDOM_ACTIVE = "random_active/top_ids"
QUANTILE_LEVELS = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95], dtype=torch.float64)


def read_ties(folder: Path) -> dict[str, str]:
    """Read by which rule the representatives of a dictionary were chosen among clips of equal score."""
    with safe_open(folder / FILE, framework="pt") as stored:
        return stored.metadata() or {}


def read_maxima(folder: Path) -> Float[Tensor, " features"]:
    """Read the largest activation of every feature on a token of the probing set, the unit of steering values.

    Raises:
        UserError: if nothing was retrieved there.
    """
    if not (folder / FILE).is_file():
        raise UserError(f"'{folder}' holds no {FILE}: run `ard test` on this dictionary, or choose another")
    return load_file(folder / FILE)["max_activation"]


class RetrieveRepresentatives(Callback):
    """Write ``representatives.safetensors``: for every scorer the p most and least representative clips (Eq. 2).

    Its tensors, of every feature, clips as rows of clips.parquet:

    - ``<scorer>/top_ids``, ``bottom_ids`` [features, p]: H^k, best first, and L^k, worst first; ``top_scores``,
      ``bottom_scores``.
    - ``<scorer>/top_strongest``, ``top_first``, ``top_last`` [features, p]: the audio token of a clip of H^k where the
      feature is strongest, and the first and last where it is active, -1 where it is silent. Token t stands for the
      time from t to t + 1 times ``seconds_per_token`` of clips.parquet.
    - ``n_active`` [features]: clips where it is active; ``max_activation`` [features]: its largest on a token.
    - ``activation_histogram`` [features, bins]: the tokens where it is active, by activation; bin i lies between
      ``activation_edges`` i and i + 1, and the outermost take what lies beyond.
    - ``activation_quantiles`` [features, levels] at ``quantile_levels``: from the histogram, hence to within 9 %.
    - ``num_clips``, ``num_tokens``: what was seen.
    - ``random_active/top_ids`` [draws, features, p], where asked for: random clips in which the feature is active.

    Args:
        out: folder of this dictionary's results.
        p: clips in each list (the paper's 4).
        ties: see :class:`~ard.representatives.RepresentativeClips`.
        tie_seed: likewise.
        num_random: draws of random clips in which a feature is active, for a reading of `Rand. Rep.`
        random_seed: of these draws.
    """

    def __init__(
        self,
        out: Path,
        p: int = 4,
        *,
        ties: Ties = "stable",
        tie_seed: int = 0,
        num_random: int = 0,
        random_seed: int = 0,
    ) -> None:
        self.out, self.p, self.ties, self.tie_seed = Path(out), p, ties, tie_seed
        self.num_random, self.random_seed = num_random, random_seed

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start empty lists."""
        assert isinstance(pl_module, Encoding)
        self._metric = RepresentativeClips(pl_module.coder.d_sae, self.p, ties=self.ties, tie_seed=self.tie_seed)
        self._metric.to(pl_module.device)
        self._random = RandomActiveClips(pl_module.coder.d_sae, self.p, self.num_random, seed=self.random_seed)
        self._random.to(pl_module.device)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: ProbeBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Fold in a batch of the probing set."""
        if dataloader_idx == 0:
            assert isinstance(pl_module, Encoding)
            wanted = self.ties == "preact"
            pre_activations = _mean_pre_activations(pl_module.coder, batch) if wanted else None
            self._metric.update(outputs["codes"], batch.clip_of_token, batch.rows, pre_activations)
            if self.num_random:
                self._random.update(outputs["codes"], batch.clip_of_token, batch.rows)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the lists."""
        found = self._metric.compute()
        tensors = found.statistics._asdict()
        for scorer, lists in found.lists.items():
            tensors |= {f"{scorer}/{name}": tensor for name, tensor in lists._asdict().items()}
        quantiles = activation_quantiles(found.statistics.activation_histogram, QUANTILE_LEVELS)
        tensors |= {"activation_quantiles": quantiles, "quantile_levels": QUANTILE_LEVELS}
        tensors["activation_edges"] = ACTIVATION_EDGES
        if self.num_random:
            tensors[RANDOM_ACTIVE] = self._random.compute()
        if trainer.is_global_zero:
            about = {"ties": self.ties} | ({"tie_seed": str(self.tie_seed)} if "random" in self.ties else {})
            with replacing(self.out / FILE) as partial:
                save_file({name: t.cpu() for name, t in tensors.items()}, partial, metadata=about)
        trainer.strategy.barrier()
        self._metric.reset()
        dead = (tensors["n_active"] == 0).double().mean()
        pl_module.log("representatives/dead_share", dead.to(torch.float32))


def _mean_pre_activations(coder: SparseCoder, batch: ProbeBatch) -> Float[Tensor, "clips features"]:
    """Return the mean over each clip's tokens of what TopK selects from: that of their mean, since it is affine."""
    total = batch.x.new_zeros(len(batch.rows), batch.x.shape[1]).index_add_(0, batch.clip_of_token, batch.x)
    num_tokens = torch.bincount(batch.clip_of_token, minlength=len(batch.rows))
    return coder.pre_activations(total / num_tokens[:, None])
