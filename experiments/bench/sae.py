"""One training step of a TopK-SAE (forward, backward, Adam), against SAELens, sparsify and dictionary_learning.

All take the same tokens in the same run, one after another in every round; a step is given in units of one encoder
product (`linear`), which every one of them needs. The peers are those of the tests, from .venv/peers
(requirements-peers.txt).
"""

import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from lightning import Trainer
from torch import Tensor
from torch.nn.functional import linear

from ard.activations import ActivationDataModule
from ard.sae import SAETraining, TopKSAE
from ard.sae.functional import affine, squared_error
from ard.sae.products import ALL_PRODUCTS, Way, using
from experiments.bench.feeding import write_store
from experiments.bench.peers import find_peers
from experiments.bench.report import FOLDER, Line

TITLE = "SAE: one training step, d_in 512, d_sae 4096, K 32, 2048 tokens"
D_IN, D_SAE, K, TOKENS = 512, 4096, 32, 2048
MILLISECONDS = (20, 50, 100, 200, 500)
Step = Callable[[], object]


def ours(d_sae: int, k: int, x: Tensor) -> Step:
    """Return a step of Eq. 1 with plain L2 and Adam."""
    sae = TopKSAE(D_IN, d_sae, k=k, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam([p for p in sae.parameters() if p.requires_grad], lr=1e-5, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        squared_error(x, sae(x)).backward()
        optimizer.step()

    return step


def ours_robust(d_sae: int, k: int, x: Tensor) -> Step:
    """Return a step of the whole LightningModule, preset `robust`, with what it logs and no dead features."""
    module = SAETraining(D_IN, d_sae // D_IN, k=k, robust=True)
    optimizer: Any = module.configure_optimizers()

    def step() -> None:
        optimizer.zero_grad()
        module.training_step(x, 0).backward()
        module.on_before_optimizer_step(optimizer)
        optimizer.step()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # there is no Trainer to log to
        step()
    module._start_from = lambda x: None  # type: ignore[method-assign]  # of the first step alone
    return step


def in_one_way(way: Way, d_sae: int, k: int, x: Tensor) -> Step:
    """Return our step with all products in one way: what the choice between them is measured by."""
    step = ours(d_sae, k, x)

    def with_products_in_this_way() -> None:
        with using({ALL_PRODUCTS: way}):
            step()

    return with_products_in_this_way


def sparsify(d_sae: int, k: int, x: Tensor) -> Step:
    """Return a step of sparsify, by its own loss."""
    peer = import_module("sparsify")
    sae = peer.SparseCoder(D_IN, peer.SparseCoderConfig(num_latents=d_sae, k=k))
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-5, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        sae(x).fvu.backward()
        optimizer.step()

    return step


def dictionary_learning(d_sae: int, k: int, x: Tensor) -> Step:
    """Return a step of dictionary_learning's TopKTrainer."""
    peer = import_module("dictionary_learning.trainers.top_k")
    trainer = peer.TopKTrainer(10**6, D_IN, d_sae, k, 0, "no model", lr=1e-5, warmup_steps=1, seed=0, device="cpu")
    return lambda: trainer.update(1, x)


def sae_lens(d_sae: int, k: int, x: Tensor) -> Step:
    """Return a step of SAELens' TopKTrainingSAE, with an Adam that is fused too."""
    peer, steps = import_module("sae_lens.saes.topk_sae"), import_module("sae_lens.saes.sae")
    sae = peer.TopKTrainingSAE(peer.TopKTrainingSAEConfig(d_in=D_IN, d_sae=d_sae, k=k))
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-5, fused=True)
    given = steps.TrainStepInput(
        sae_in=x, coefficients={}, dead_neuron_mask=None, n_training_steps=0, is_logging_step=False
    )

    def step() -> None:
        optimizer.zero_grad()
        sae.training_forward_pass(given).loss.backward()
        optimizer.step()

    return step


CONTENDERS = {"ours": ours, "sparsify": sparsify, "dictionary_learning": dictionary_learning, "SAELens": sae_lens}


def median_times(steps: Mapping[str, Step], rounds: int) -> dict[str, float]:
    """Return the median seconds of each step, all of them in turn in every round."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for round_number in range(rounds + 1):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            if round_number:  # the first is not counted
                times[name].append(time.perf_counter() - started)
    return {name: statistics.median(found) for name, found in times.items()}


def gemm(d_sae: int, x: Tensor) -> Step:
    """Return the encoder's product as `linear` makes it."""
    weight = torch.randn(d_sae, D_IN)
    return lambda: linear(x, weight)


def growth(x: Tensor) -> None:
    """Draw how a step grows with d_sae and with K, to docs/sae_step.png."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt  # after the backend is chosen

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    sizes = ([(e * D_IN, K) for e in (4, 8, 16)], [(D_SAE, k) for k in (16, 32, 64, 128, 256)])
    for axis, points, label in zip(axes, sizes, (f"d_sae (K {K})", f"K (d_sae {D_SAE})"), strict=True):
        found = [
            median_times({"one encoder product": gemm(f, x), **{n: c(f, k, x) for n, c in CONTENDERS.items()}}, 2)
            for f, k in points
        ]
        for name in found[0]:
            style = "k--" if name == "one encoder product" else "o-"
            axis.plot([p[axis is axes[1]] for p in points], [1000 * t[name] for t in found], style, label=name)
        axis.set(xscale="log", yscale="log", xlabel=label)
        ticks = [p[axis is axes[1]] for p in points]
        axis.set_xticks(ticks, [str(tick) for tick in ticks], minor=False)
        axis.minorticks_off()
    axes[0].set_yticks(MILLISECONDS, [str(tick) for tick in MILLISECONDS])
    axes[0].set_ylabel(f"ms a step, {TOKENS} tokens, d_in {D_IN}")
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(FOLDER / "sae_step.png", dpi=120)


def crossover() -> float:
    """Return the least share of features kept, of those tried, from which on dense products are the faster ones."""
    x = torch.randn(512, D_IN)
    for share in (1 / 16, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2):
        k = int(share * D_SAE)
        found = median_times({way: in_one_way(way, D_SAE, k, x) for way in ("dense", "gather")}, 3)
        if found["dense"] < found["gather"]:
            return share
    return 1.0


def side_by_side(d_in: int, k: int, batch_tokens: int, steps: int) -> tuple[float, float]:
    """Return the seconds of a step of expansions 4, 8 and 16 side by side, and of three runs, from shards."""
    with tempfile.TemporaryDirectory() as scratch:
        write_store(Path(scratch), d_in, 4)

        def run(expansion: int | list[int]) -> Step:
            def fit() -> None:
                data = ActivationDataModule(Path(scratch), layer=0, batch_tokens=batch_tokens, buffer_tokens=65536)
                Trainer(
                    max_steps=steps,
                    accelerator="cpu",
                    logger=False,
                    enable_checkpointing=False,
                    enable_progress_bar=False,
                    enable_model_summary=False,
                    limit_val_batches=0,
                ).fit(SAETraining(d_in, expansion, k=k), data)

            return fit

        found = median_times({"together": run([4, 8, 16]), **{str(e): run(e) for e in (4, 8, 16)}}, 2)
        together = found.pop("together")
        return together / steps, sum(found.values()) / steps


def main() -> list[Line]:
    """Measure steps, their growth, the crossover from sparse to dense products, and SAEs side by side."""
    find_peers()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    x = torch.randn(TOKENS, D_IN, generator=torch.Generator().manual_seed(0))
    weight, bias = torch.randn(D_SAE, D_IN), torch.zeros(D_SAE)
    found = median_times(
        {
            "one encoder product": gemm(D_SAE, x),
            "as we make it": lambda: affine(x, weight.T, bias),
            **{name: contender(D_SAE, K, x) for name, contender in CONTENDERS.items()},
            "robust": ours_robust(D_SAE, K, x),
            "dense": in_one_way("dense", D_SAE, K, x),
        },
        9,
    )
    product, step = found["one encoder product"], found["ours"]
    growth(x)
    large, small = side_by_side(D_IN, K, TOKENS, 10), side_by_side(128, 16, 512, 100)
    return [
        Line("one encoder product, by `linear`", product * 1000, "ms", "the unit of what follows"),
        Line("the same product as ours makes it", found["as we make it"] / product, "products", "by oneDNN"),
        Line("a step of ours", step / product, "products", "to reach: 1.5"),
        Line("a step of ours, `robust`, as a LightningModule", found["robust"] / product, "products"),
        Line("a step of ours with dense products", found["dense"] / product, "products"),
        *(Line(f"a step of {name}", found[name] / product, "products") for name in list(CONTENDERS)[1:]),
        Line("faster than sparsify", found["sparsify"] / step, "times", "to reach: 2"),
        Line("faster than dictionary_learning", found["dictionary_learning"] / step, "times", "to reach: 4"),
        Line("faster than SAELens", found["SAELens"] / step, "times", "to reach: 4"),
        Line("dense products are faster from", crossover(), "of d_sae", "the share that a token keeps"),
        Line("expansions 4, 8, 16 side by side", large[0] * 1000, "ms a step", f"from shards; {D_IN} wide"),
        Line("cheaper than three runs", large[1] / large[0], "times"),
        Line("expansions 4, 8, 16 side by side, demo", small[0] * 1000, "ms a step", "128 wide, K 16, 512 tokens"),
        Line("cheaper than three runs, demo", small[1] / small[0], "times"),
    ]
