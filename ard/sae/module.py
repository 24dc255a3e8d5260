"""Training a TopK-SAE, and encoding with one, as LightningModules."""

from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor

from ard.activations import ProbeBatch
from ard.sae.functional import auxiliary_loss, fraction_of_variance_unexplained, geometric_median, squared_error, top_k
from ard.sae.topk import TopKSAE, load_sparse_coder
from ard.types import Codes


class SAETraining(LightningModule):
    """Train one TopK-SAE on batches of tokens (Sec. 2.1).

    The defaults are the paper's: Eq. 1 as it stands, plain L2, Adam at 1e-5. ``robust`` turns on what reference [17]
    adds: a pre-bias from the geometric median of the first batch, decoder rows of unit norm, AuxK for dead features.

    Args:
        d_in: width of the residual stream.
        expansion: e; the SAE has e * d_in features.
        k: features that each token keeps.
        lr: learning rate of Adam.
        robust: train as reference [17] does.
        k_aux: dead features that AuxK uses for a token (``robust``).
        auxk_coefficient: weight of AuxK, normalised by the variance of the residual (``robust``).
        dead_after_tokens: a feature is dead when it was silent for that many tokens.
        seed: of the initial weights.
    """

    def __init__(
        self,
        d_in: int,
        expansion: int = 8,
        *,
        k: int = 250,
        lr: float = 1e-5,
        robust: bool = False,
        k_aux: int = 256,
        auxk_coefficient: float = 1 / 32,
        dead_after_tokens: int = 10_000_000,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.lr, self.robust = lr, robust
        self.k_aux, self.auxk_coefficient, self.dead_after_tokens = k_aux, auxk_coefficient, dead_after_tokens
        generator = torch.Generator().manual_seed(seed)
        self.sae = TopKSAE(d_in, expansion * d_in, k=k, pre_bias=robust, generator=generator)
        self.tokens_silent: Tensor
        self.register_buffer("tokens_silent", torch.zeros(expansion * d_in, dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """Return the reconstruction of x."""
        return self.sae(x)

    def training_step(self, x: Tensor, batch_idx: int) -> Tensor:
        """Return the loss of a batch of tokens [tokens, d_in]."""
        if self.robust and self.global_step == 0:
            self.sae.b_dec.data.copy_(geometric_median(x))
        pre_activations = self.sae.pre_activations(x)
        codes = top_k(pre_activations, self.sae.k)
        x_hat = self.sae.decode(codes)
        error = squared_error(x, x_hat)
        loss = error
        dead = self._count_silence(codes)
        if self.robust:
            auxiliary = auxiliary_loss(x - x_hat, pre_activations, dead, self.sae.W_dec, self.k_aux)
            variance = (x - x.mean(dim=0)).pow(2).sum(dim=-1).mean()
            loss = error / variance + self.auxk_coefficient * auxiliary
        with torch.no_grad():
            fvu = fraction_of_variance_unexplained(x, x_hat)
            not_positive = (codes.values <= 0).float().mean()
        self.log_dict(
            {
                "train/loss": loss,
                "train/squared_error": error,
                "train/fvu": fvu,
                "train/dead_share": dead.float().mean(),
                "train/not_positive_share": not_positive,
            },
            prog_bar=False,
        )
        self.log("fvu", fvu, prog_bar=True, logger=False)
        return loss

    def validation_step(self, x: Tensor, batch_idx: int) -> None:
        """Log how well held-out tokens are reconstructed."""
        codes = self.sae.encode(x)
        self.log("val/fvu", fraction_of_variance_unexplained(x, self.sae.decode(codes)), prog_bar=True)
        self.log("val/l0", (codes.values > 0).sum(dim=-1).float().mean())

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Take out the part of the decoder's gradient that would only change the norm of its rows (``robust``)."""
        grad = self.sae.W_dec.grad
        if self.robust and grad is not None:
            weight = self.sae.W_dec.data
            grad -= (grad * weight).sum(dim=-1, keepdim=True) * weight

    def on_train_batch_end(self, outputs: Any, batch: Tensor, batch_idx: int) -> None:
        """Bring the decoder's rows back to unit norm (``robust``)."""
        if self.robust:
            self.sae.W_dec.data /= self.sae.W_dec.data.norm(dim=-1, keepdim=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam."""
        return torch.optim.Adam([p for p in self.sae.parameters() if p.requires_grad], lr=self.lr, fused=True)

    @torch.no_grad()
    def _count_silence(self, codes: Codes) -> Tensor:
        """Count on for how many tokens each feature has been silent, and return which are dead."""
        self.tokens_silent += len(codes.values)
        self.tokens_silent[codes.indices[codes.values > 0]] = 0
        return self.tokens_silent > self.dead_after_tokens


class Encoding(LightningModule):
    """Turn whole clips into sparse codes (`test`); the callbacks make of them what the paper's stages 2 and 3 do.

    Args:
        sae: folder of a trained SAE, or ``poly`` for the raw coordinates (`Poly. Feats.`).
        d_in: width of the residual stream.
    """

    def __init__(self, sae: str, d_in: int) -> None:
        super().__init__()
        self.coder = load_sparse_coder(sae, d_in)

    @property
    def method(self) -> str:
        """The paper's name of what is encoded: `AR&D` for an SAE, `Poly. Feats.` for raw coordinates."""
        return "AR&D" if isinstance(self.coder, TopKSAE) else "Poly. Feats."

    @property
    def expansion(self) -> int | None:
        """The expansion factor e; None for raw coordinates."""
        return self.coder.d_sae // self.coder.d_in if isinstance(self.coder, TopKSAE) else None

    def test_step(self, batch: ProbeBatch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Codes]:
        """Return the codes of the batch's tokens, under ``codes``."""
        return {"codes": self.coder.encode(batch.x)}

    def configure_optimizers(self) -> None:
        """Nothing is trained here."""
