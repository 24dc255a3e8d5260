"""Training TopK-SAEs, as a LightningModule."""

import logging
from collections.abc import Iterable
from typing import Any, Literal, cast

import torch
import torch.distributed as dist
from lightning import LightningModule, Trainer
from torch import Tensor, nn

from ard.activations import ActivationDataModule
from ard.sae.functional import (
    auxiliary_loss,
    encode_top_k,
    geometric_median,
    nested_errors,
    rounded,
    squared_error,
    variance,
)
from ard.sae.products import ALL_PRODUCTS, PRODUCTS, case, check_way, measure, using
from ard.sae.topk import Reconstruction, TopKSAE
from ard.types import Codes, UserError


class SAETraining(LightningModule):
    """Train TopK-SAEs on batches of tokens (Sec. 2.1): one, or several expansions side by side on the same batches.

    The defaults are the paper's: Eq. 1 as written, plain L2, Adam at 1e-5. ``robust`` adds what reference [17] does: x
    is divided by one number, so that its variance is 1 in the first batch; a pre-bias starts at the geometric median of
    that batch; decoder rows have unit norm; AuxK revives dead features.

    On several ranks, each with its part of every batch, training gives the same SAEs as one rank on whole batches.

    SAEs side by side share only the batches and the optimizer, which works weight by weight: each is trained exactly as
    it would be alone.

    Args:
        d_in: width of the residual stream.
        expansion: e; the SAE has e * d_in features. Several are trained side by side.
        k: features that each token keeps.
        lr: learning rate of Adam.
        robust: train as reference [17] does. Where the features are known, at their own L0, it loses to the paper's
            objective in precision of directions (docs/truth.md).
        k_aux: dead features that AuxK uses per token (``robust``).
        auxk_coefficient: weight of AuxK, normalised by the variance of the residual (``robust``).
        dead_after_tokens: a feature is dead when it has been silent for more tokens than this.
        batch_top_k: keep k features per token on average, rather than for each token; the SAE then has a threshold.
        matryoshka: shares of the features in each group, which add up to 1. The loss is the mean of the losses with
            the first group, the first two, and so on.
        max_norm_multiple: leave out tokens whose norm exceeds this multiple of the batch's median norm.
        seed: seed for the initial weights.
        float32_products: how a GPU multiplies float32 matrices: ``highest`` without rounding, or ``high`` in TF32, with
            the rounding of :func:`torch.set_float32_matmul_precision`. It changes nothing under bf16-mixed.
        products: how sparse codes are multiplied: ``fastest``, which a GPU measures on its first batch, or always in
            one way of :mod:`ard.sae.products`.
    """

    def __init__(
        self,
        d_in: int,
        expansion: int | list[int] = 8,
        *,
        k: int = 250,
        lr: float = 1e-5,
        robust: bool = False,
        k_aux: int = 256,
        auxk_coefficient: float = 1 / 32,
        dead_after_tokens: int = 10_000_000,
        batch_top_k: bool = False,
        matryoshka: list[float] | None = None,
        max_norm_multiple: float | None = None,
        seed: int = 0,
        float32_products: Literal["highest", "high"] = "highest",
        products: Literal["fastest", "dense", "gather", "triton"] = "fastest",
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.expansions = [expansion] if isinstance(expansion, int) else list(expansion)
        self.lr, self.robust = lr, robust
        self.k_aux, self.auxk_coefficient, self.dead_after_tokens = k_aux, auxk_coefficient, dead_after_tokens
        self.matryoshka, self.max_norm_multiple = matryoshka, max_norm_multiple
        self.float32_products, self.products = float32_products, products
        self.table: dict[str, str] = {} if products == "fastest" else {ALL_PRODUCTS: products}
        self.chosen: set[tuple[int, int]] = set()  # expansions and k whose products the table lists
        self.is_logged = False  # this step; to log some twenty figures takes as long as a small step
        self.fvu: dict[str, Tensor] = {}  # of the last step that was logged, for the progress bar
        self.saes = nn.ModuleList(
            TopKSAE(
                d_in,
                e * d_in,
                k=k,
                pre_bias=robust,
                threshold=0.0 if batch_top_k else None,
                generator=torch.Generator().manual_seed(seed),
            )
            for e in self.expansions
        )
        self.tokens_silent: Tensor
        self.register_buffer("tokens_silent", torch.zeros(sum(self.expansions) * d_in, dtype=torch.int64))
        self.num_firing: Tensor  # tokens on which a feature is active, of the ``num_firing_tokens`` since it was reset
        self.register_buffer("num_firing", torch.zeros_like(self.tokens_silent), persistent=False)
        self.num_firing_tokens = 0
        self.scale: Tensor
        self.register_buffer("scale", torch.ones(()))

    def setup(self, stage: str) -> None:
        """Refuse settings that would train something other than what was asked for, before anything is trained."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if isinstance(data, ActivationDataModule):
            data.check_width(self.sae.d_in)
        if stage == "fit":
            if self.products != "fastest":
                check_way(self.products, torch.empty(0, device=self.trainer.strategy.root_device))
            check_precision(self.trainer.precision, clips=bool(self.trainer.gradient_clip_val))
            if self.trainer.world_size > 1 and (self.max_norm_multiple is not None or self.sae.threshold is not None):
                raise UserError(
                    "max_norm_multiple and batch_top_k need the whole batch, but each of "
                    f"{self.trainer.world_size} ranks has only a part: set trainer.devices to 1"
                )
            self.earlier_float32_products = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision(self.float32_products)

    def teardown(self, stage: str) -> None:
        """Restore how float32 is multiplied, which is one setting for the whole process."""
        if stage == "fit":
            torch.set_float32_matmul_precision(self.earlier_float32_products)

    def precision(self) -> str:
        """Return in which precision it is trained: that of the Trainer, and TF32 where it is what multiplies."""
        on_cuda = self.trainer.strategy.root_device.type == "cuda"
        rounds = on_cuda and self.float32_products != "highest"
        return "32-true, products in TF32" if rounds and self.trainer.precision == "32-true" else self.trainer.precision

    @property
    def sae(self) -> TopKSAE:
        """The SAE in training, or the first of several; it reads x / ``scale``."""
        return self.by_expansion[self.expansions[0]]

    @property
    def by_expansion(self) -> dict[int, TopKSAE]:
        """The SAEs in training, by expansion; they read x / ``scale``."""
        return dict(zip(self.expansions, cast("Iterable[TopKSAE]", self.saes), strict=True))

    def trained(self) -> dict[int, TopKSAE]:
        """Return the SAE of every expansion, rescaled to read x itself."""
        return {e: sae.scaled(float(self.scale)) for e, sae in self.by_expansion.items()}

    def forward(self, x: Tensor) -> Tensor:
        """Return the reconstruction of x by the SAE, or the first of several."""
        return self.sae(x / self.scale) * self.scale

    def on_train_batch_start(self, batch: Tensor, batch_idx: int) -> None:
        """Log the step if the Trainer does, and the last one of all or of an epoch: callbacks then find its figures."""
        step, trainer = self.trainer.global_step + 1, cast(Any, self.trainer)
        self.is_logged = step == trainer.max_steps or trainer.is_last_batch or is_time_to_log(trainer, step)

    def training_step(self, x: Tensor, batch_idx: int) -> Tensor:
        """Return the loss of a batch of tokens [tokens, d_in], summed over the SAEs."""
        if self.max_norm_multiple is not None:
            norm = x.norm(dim=-1)
            x = x[norm <= self.max_norm_multiple * norm.median()]
        if self.robust and self.global_step == 0:
            self._start_from(x)
        x = x / self.scale if self.robust else x
        if x.device.type == "cuda" and self.products == "fastest":
            self._choose_ways(x)
        with using(self.table):
            return self._loss(x) * self._weight(x)

    def _loss(self, x: Tensor) -> Tensor:
        total = x.new_zeros(())
        self.num_firing_tokens += len(x)
        sizes = [sae.d_sae for sae in self.by_expansion.values()]
        states = zip(self.tokens_silent.split(sizes), self.num_firing.split(sizes), strict=True)
        for (e, sae), (silent, num_firing) in zip(self.by_expansion.items(), states, strict=True):
            codes = sae.encode_to_train(x)
            if self.matryoshka is None:
                x_hat = sae.decode(codes)
                loss = error = squared_error(x, x_hat)
            else:
                errors, x_hat = nested_errors(x, codes, sae.W_dec, sae.b_dec, self.matryoshka)
                loss, error = errors.mean(), errors[-1]
            dead = self._count_silence(codes, silent, num_firing)
            if self.robust:
                weights = (sae.W_enc, sae.b_enc, sae.W_dec)
                auxiliary = auxiliary_loss(x - x_hat, x, *weights, dead, self.k_aux, sae.centre)
                loss = loss + self.auxk_coefficient * auxiliary
            total = total + loss
            if self.is_logged:
                fvu, not_positive = error.detach() / variance(x), (codes.values <= 0).float().mean()
                self._log_step(
                    e,
                    {
                        "loss": loss.detach(),
                        "squared_error": error.detach() * self.scale**2,
                        "fvu": fvu,
                        "explained_variance": 1 - fvu,
                        "l0": codes.values.numel() / len(x) * (1 - not_positive),
                        "dead_share": dead.float().mean(),
                        "not_positive_share": not_positive,
                    },
                )
        return total

    @torch.no_grad()
    def _choose_ways(self, x: Tensor) -> None:
        """Time the products of every SAE whose K is new; a training that is resumed has the table of the first."""
        for e, sae in self.by_expansion.items():
            width = sae.width_to_train()
            if (e, width) in self.chosen:
                continue
            self.chosen.add((e, width))
            rows = rounded(sae.W_dec)
            if all(case(product, rows, width, sae.d_sae) in self.table for product in PRODUCTS):
                continue
            codes = encode_top_k(x, sae.W_enc, sae.b_enc, width, sae.centre)
            table, times = measure(codes, rounded(x), rows)
            self.table |= table
            for product, way in table.items():
                each = ", ".join(f"{name} {ms:.3g} ms" for name, ms in times[product].items())
                logging.getLogger(__name__).info("%s: %s (%s)", product, way, each)

    def forget_firing(self) -> None:
        """Count from now on which features are active."""
        self.num_firing.zero_()
        self.num_firing_tokens = 0

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep how products are computed."""
        checkpoint["products"] = self.table

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on as the training began, unless the setting says otherwise."""
        if self.products == "fastest":
            self.table = {key: way for key, way in checkpoint.get("products", {}).items() if key != ALL_PRODUCTS}

    def on_train_batch_end(self, outputs: Any, batch: Tensor, batch_idx: int) -> None:
        """Show the FVU in the progress bar as often as it is logged: a number that is shown is waited for."""
        if is_time_to_log(self.trainer, self.trainer.global_step):
            self.trainer.progress_bar_metrics.update({name: float(fvu) for name, fvu in self.fvu.items()})

    def _weight(self, x: Tensor) -> float:
        """Return this rank's share of all tokens, times the number of ranks: gradients are averaged over ranks."""
        if not (dist.is_available() and dist.is_initialized()):
            return 1.0
        num_tokens = torch.full((), float(len(x)), device=x.device)
        dist.all_reduce(num_tokens)
        return len(x) * dist.get_world_size() / float(num_tokens)

    def validation_step(self, x: Tensor, batch_idx: int) -> dict[str, Reconstruction]:
        """Return each SAE's reconstruction and codes of held-out tokens, by expansion."""
        reconstructions = {}
        with using(self.table):
            for e, sae in self.by_expansion.items():
                codes = sae.encode(x / self.scale)
                values, x_hat = codes.values * self.scale, sae.decode(codes) * self.scale
                reconstructions[str(e)] = Reconstruction(x_hat, Codes(values, codes.indices))
        return reconstructions

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Remove the part of the decoder gradients that would only change the norm of rows (``robust``)."""
        for sae in self.by_expansion.values() if self.robust else ():
            weight, grad = sae.W_dec.data, sae.W_dec.grad
            if grad is not None:
                grad.addcmul_(torch.linalg.vecdot(grad, weight)[:, None], weight, value=-1)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip each SAE's gradients by their own norm, as if it were trained alone."""
        if gradient_clip_algorithm == "value":
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif gradient_clip_val:
            for sae in self.by_expansion.values():
                nn.utils.clip_grad_norm_(sae.parameters(), gradient_clip_val)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Take a step, then restore the unit norm of decoder rows (``robust``) before a checkpoint can be written."""
        super().optimizer_step(*args, **kwargs)
        for sae in self.by_expansion.values() if self.robust else ():
            sae.W_dec.data /= sae.W_dec.data.norm(dim=-1, keepdim=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return one Adam for all SAEs."""
        return torch.optim.Adam([p for p in self.parameters() if p.requires_grad], lr=self.lr, fused=True)

    @torch.no_grad()
    def _start_from(self, x: Tensor) -> None:
        """Set the scale and the pre-biases from a batch gathered over all ranks."""
        if dist.is_available() and dist.is_initialized():
            parts: list[Any] = [None] * dist.get_world_size()  # whose lengths may differ
            dist.all_gather_object(parts, x.cpu())
            x = torch.cat(parts).to(x.device)
        self.scale.copy_(variance(x).sqrt())
        median = geometric_median(x / self.scale)
        for sae in self.by_expansion.values():
            sae.b_dec.copy_(median)

    @torch.no_grad()
    def _count_silence(self, codes: Codes, silent: Tensor, num_firing: Tensor) -> Tensor:
        """Count for how many tokens, over all ranks, each feature has been silent, and return which are dead.

        On how many tokens of this rank each is active is added up too, for whoever logs it.
        """
        active = torch.zeros_like(silent).index_add_(0, codes.indices.flatten(), (codes.values > 0).long().flatten())
        num_tokens: int | Tensor = len(codes.values)
        num_firing += active
        if dist.is_available() and dist.is_initialized():
            num_tokens = torch.full((), len(codes.values), device=silent.device)
            dist.all_reduce(active)
            dist.all_reduce(num_tokens)
        silent.add_(num_tokens).mul_(active == 0)
        return silent > self.dead_after_tokens

    def _log_step(self, expansion: int, figures: dict[str, Tensor]) -> None:
        one = len(self.expansions) == 1
        self.log_dict({f"train/{name}" if one else f"train/e{expansion}/{name}": x for name, x in figures.items()})
        self.fvu["fvu" if one else f"fvu-e{expansion}"] = figures["fvu"]


def is_time_to_log(trainer: Trainer, step: int) -> bool:
    """Return whether the Trainer logs after so many steps; with ``log_every_n_steps: 0`` it never does."""
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    return every > 0 and step % every == 0


def check_precision(precision: str, *, clips: bool) -> None:
    """Refuse a precision in which training fails or clips something other than the gradients.

    Raises:
        UserError: if it is such a precision.
    """
    if precision not in ("32-true", "16-mixed", "bf16-mixed"):
        raise UserError(
            f"trainer.precision is {precision!r}, in which an SAE cannot be trained: choose 32-true or bf16-mixed"
        )
    if precision == "16-mixed" and clips:
        raise UserError(
            "trainer.precision is '16-mixed', whose gradients are still scaled when trainer.gradient_clip_val would "
            "clip them: choose bf16-mixed, or leave out the clipping"
        )
