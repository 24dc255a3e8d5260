"""The trainers that are compared: ours by its LightningModule, the peers' by their own, all on the same tokens."""

import io
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from lightning import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset
from transformers import PretrainedConfig, PreTrainedModel

from ard.sae import SAETraining, TopKSAE, load_dictionary
from ard.sae.formats import StoredSAE
from experiments.bench.peers import find_peers
from experiments.training.settings import DEAD_AFTER_TOKENS, K_AUX, LR
from experiments.truth.generator import World
from experiments.truth.measures import Coder, of_dictionary, true_codes

GROUPS = [0.25, 0.25, 0.5]  # of Matryoshka, as shares of the features


class Size(NamedTuple):
    """How long is trained."""

    steps: int = 2000
    batch_tokens: int = 256


class Task(NamedTuple):
    """What a trainer is given: a world, how long to train in it, K, and the seed of the first weights."""

    world: World
    size: Size
    k: int
    seed: int

    @property
    def num_latents(self) -> int:
        """As many as there are features."""
        return self.world.setting.num_features

    def batches(self) -> Iterator[Tensor]:
        """Return the tokens of every step."""
        return (self.world.batch(number, self.size.batch_tokens).x for number in range(self.size.steps))


class Tokens(IterableDataset[Tensor]):
    """The batches of a task."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def __iter__(self) -> Iterator[Tensor]:
        """Return the batches."""
        return self.task.batches()


class Unlogged(SAETraining):
    """Our training without the figures of every step, which nobody reads here and which take a third of the time."""

    def _log_step(self, expansion: int, figures: dict[str, Tensor]) -> None: ...


def ours(*, true_directions: bool = False, **options: Any) -> Callable[[Task], Coder]:
    """Return our training. What is not named is as in configs/demo/fit.yaml.

    Args:
        true_directions: give it the true directions, and train the encoder alone.
        options: of :class:`~ard.sae.SAETraining`.
    """
    given = {"lr": LR, "k_aux": K_AUX, "dead_after_tokens": DEAD_AFTER_TOKENS, **options}

    def train(task: Task) -> Coder:
        width = task.world.setting.width
        module = Unlogged(width, task.num_latents // width, k=task.k, seed=task.seed, **given)
        if true_directions:
            module.sae.W_dec.data = task.world.directions.clone()
            module.sae.W_enc.data = task.world.directions.clone().T
            module.sae.W_dec.requires_grad_(False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a stream has no workers
            Trainer(
                devices=1,
                accelerator="cpu",
                max_steps=task.size.steps,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            ).fit(module, DataLoader(Tokens(task), batch_size=None))
        (sae,) = module.trained().values()
        return of_dictionary(sae)

    return train


def untrained(task: Task) -> Coder:
    """Return the floor: random unit directions, the encoder their transpose, centred by what all tokens share."""
    sae = TopKSAE(
        task.world.setting.width,
        task.num_latents,
        k=task.k,
        pre_bias=True,
        generator=torch.Generator().manual_seed(task.seed),
    )
    sae.b_dec.data = task.world.bias.clone()
    return of_dictionary(sae)


def tied(task: Task) -> Coder:
    """Return the true directions with their transpose as the encoder, and TopK."""
    sae = TopKSAE(task.world.setting.width, task.num_latents, k=task.k)
    return of_dictionary(sae.with_directions(task.world.directions, task.world.bias, {}))


def dictionary_learning(module: str, name: str, **options: Any) -> Callable[[Task], Coder]:
    """Return a trainer of dictionary_learning, with its own defaults; a short training warms up for half of it."""

    def train(task: Task) -> Coder:
        trainers = import_module(f"dictionary_learning.trainers.{module}")
        trainer = getattr(trainers, name)(
            task.size.steps,
            task.world.setting.width,
            task.num_latents,
            task.k,
            0,
            "no model",
            warmup_steps=min(1000, task.size.steps // 2),
            threshold_start_step=min(1000, task.size.steps // 2),
            seed=task.seed,
            device="cpu",
            **options,
        )
        for step, x in enumerate(task.batches()):
            trainer.update(step, x)
        theirs = trainer.ae.state_dict()
        threshold = None if name == "TopKTrainer" else max(float(theirs["threshold"]), 0.0)  # -1: not yet set
        tensors = {"b_dec": theirs["b_dec"]}
        if "W_enc" in theirs:
            tensors |= {part: theirs[part] for part in ("W_enc", "b_enc", "W_dec")}
        else:
            encoder, decoder = theirs["encoder.weight"].T, theirs["decoder.weight"].T.contiguous()
            tensors |= {"W_enc": encoder, "b_enc": theirs["encoder.bias"], "W_dec": decoder}
        return of_dictionary(TopKSAE.from_stored(StoredSAE(task.k, True, tensors, {}, threshold)))

    return train


def sae_lens(name: str, *, lr: float | None = None, **options: Any) -> Callable[[Task], Coder]:
    """Return a training SAE of SAELens under its SAETrainer, with their own defaults.

    Args:
        name: of its class.
        lr: the learning rate, a constant; None for its default.
        options: of its configuration, each a function of the number of latents.
    """

    def train(task: Task) -> Coder:
        peer, config = import_module("sae_lens"), import_module("sae_lens.config")
        trainer = import_module("sae_lens.training.sae_trainer")
        torch.manual_seed(task.seed)
        width = task.world.setting.width
        sized = {key: value(task.num_latents) for key, value in options.items()}
        sae = getattr(peer, name)(getattr(peer, f"{name}Config")(d_in=width, d_sae=task.num_latents, k=task.k, **sized))
        of_all = task.size.steps * task.size.batch_tokens
        constant = config.SAETrainerConfig.lr if lr is None else lr
        settings = config.SAETrainerConfig(of_all, task.size.batch_tokens, lr=constant, lr_end=constant)
        with redirect_stderr(io.StringIO()):  # its progress bar
            trainer.SAETrainer(settings, sae, task.batches()).fit()
        with TemporaryDirectory() as folder:
            sae.save_inference_model(folder)
            return of_dictionary(load_dictionary(Path(folder)))

    return train


class Streamed(PreTrainedModel):
    """A model whose only layer returns the tokens of a step: what sparsify's Trainer takes activations from."""

    config_class = PretrainedConfig

    def __init__(self, task: Task) -> None:
        super().__init__(PretrainedConfig())
        self.task, self.layer = task, nn.Identity()
        self.directions = nn.Parameter(task.world.directions)

    @property
    def dummy_inputs(self) -> dict[str, Tensor]:
        """What the Trainer asks the width with."""
        return {"input_ids": torch.zeros(1, 1, dtype=torch.int64)}

    def forward(self, input_ids: Tensor) -> Tensor:
        """Return the tokens of the step that the ids name."""
        return self.layer(self.task.world.batch(int(input_ids[0, 0]), self.task.size.batch_tokens).x[None])


class Steps(Dataset[dict[str, Tensor]]):
    """Sequences of ids that name their step."""

    def __init__(self, size: Size) -> None:
        self.size = size

    def __len__(self) -> int:
        """Return the number of steps."""
        return self.size.steps

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        """Return the ids of a step."""
        return {"input_ids": torch.full((self.size.batch_tokens,), step)}


def sparsify(**options: Any) -> Callable[[Task], Coder]:
    """Return sparsify's Trainer, with its own defaults but for the options."""

    def train(task: Task) -> Coder:
        peer, precision = import_module("sparsify"), torch.get_float32_matmul_precision()
        with TemporaryDirectory() as folder, redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
            config = peer.TrainConfig(
                peer.SparseCoderConfig(num_latents=task.num_latents, k=task.k),
                batch_size=1,
                hookpoints=["layer"],
                init_seeds=[task.seed],
                save_every=task.size.steps + 1,
                log_to_wandb=False,
                save_dir=folder,
                **options,
            )
            peer.Trainer(config, Steps(task.size), Streamed(task)).fit()
            torch.set_float32_matmul_precision(precision)  # which it sets
            return of_dictionary(load_dictionary(Path(folder) / "unnamed" / "layer"))

    return train


def _widths(num_latents: int) -> list[int]:
    return [int(sum(GROUPS[: place + 1]) * num_latents) for place in range(len(GROUPS))]


PAPER, OPTIONS = "`paper`", ("`robust`", "`batch_top_k`", "`matryoshka`")
OURS: Mapping[str, Callable[[Task], Coder]] = {
    PAPER: ours(),
    OPTIONS[0]: ours(robust=True),
    OPTIONS[1]: ours(batch_top_k=True),
    OPTIONS[2]: ours(matryoshka=GROUPS),
}
"""Our training and one option at a time; each is also trained with too small and too large a K."""

COMBINED: Mapping[str, Callable[[Task], Coder]] = {
    "`paper` at its own learning rate": ours(lr=1e-5),
    "`robust`, `batch_top_k`": ours(robust=True, batch_top_k=True),
    "`robust`, `matryoshka`": ours(robust=True, matryoshka=GROUPS),
    "`robust`, `batch_top_k`, `matryoshka`": ours(robust=True, batch_top_k=True, matryoshka=GROUPS),
}
PEERS: Mapping[str, Callable[[Task], Coder]] = {
    "dictionary_learning, TopK": dictionary_learning("top_k", "TopKTrainer"),
    "dictionary_learning, BatchTopK": dictionary_learning("batch_top_k", "BatchTopKTrainer"),
    "SAELens, TopK": sae_lens("TopKTrainingSAE"),
    "sparsify, TopK": sparsify(),
    "SAELens, TopK, learning rate as ours": sae_lens("TopKTrainingSAE", lr=LR),
    "sparsify, TopK, Adam": sparsify(optimizer="adam"),
    "dictionary_learning, Matryoshka": dictionary_learning(
        "matryoshka_batch_top_k", "MatryoshkaBatchTopKTrainer", group_fractions=GROUPS
    ),
    "SAELens, BatchTopK": sae_lens("BatchTopKTrainingSAE"),
    "SAELens, Matryoshka": sae_lens("MatryoshkaBatchTopKTrainingSAE", matryoshka_widths=_widths),
    "SAELens, BatchTopK, learning rate as ours": sae_lens("BatchTopKTrainingSAE", lr=LR),
    "SAELens, Matryoshka, learning rate as ours": sae_lens(
        "MatryoshkaBatchTopKTrainingSAE", lr=LR, matryoshka_widths=_widths
    ),
}
"""The peers' trainers, one of every library first."""

BOUNDS: Mapping[str, Callable[[Task], Coder]] = {
    "untrained": untrained,
    "true directions, tied encoder": tied,
    "true directions, trained encoder": ours(true_directions=True, robust=True),
    "true codes": lambda task: true_codes(task.world),
}
TRAINERS = {**BOUNDS, **OURS, **COMBINED, **PEERS}


def ready(name: str) -> Callable[[Task], Coder]:
    """Return a trainer; a peer's library is imported now."""
    if name in PEERS:
        find_peers()
    return TRAINERS[name]
