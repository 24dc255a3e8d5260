"""The settings that are tried, and training by the project's own code."""

from pathlib import Path
from typing import NamedTuple

from lightning import Callback, Trainer

from ard.activations import ActivationDataModule, read_manifest
from ard.results import write_json
from ard.sae import AnnealK, SAETraining

LR = 1e-3  # of configs/demo/fit.yaml, as the next three
BATCH_TOKENS, BUFFER_TOKENS = 512, 65536
K_AUX = 64
DEAD_AFTER_TOKENS = 50_000


class Setting(NamedTuple):
    """How an SAE is trained. What is not named here is as in configs/demo/fit.yaml."""

    k: int
    expansion: int = 8
    steps: int = 600
    objective: str = "robust"  # or "plain", the paper's
    batch_top_k: bool = False
    matryoshka: bool = False  # groups of a quarter, a quarter and a half of the features
    anneal_from: int | None = None  # K of the first step; it falls to k in half of the steps

    @property
    def name(self) -> str:
        """Its name in tables and its folder's name."""
        more = ["BatchTopK"] * self.batch_top_k + ["Matryoshka"] * self.matryoshka
        more += [f"K from {self.anneal_from}"] * (self.anneal_from is not None)
        return ", ".join([f"K {self.k}", f"e {self.expansion}", f"{self.steps} steps", self.objective, *more])

    @property
    def variation(self) -> int:
        """0 for the demo's own training, else a number by which variations of a kind stand together in a table."""
        kinds = self.objective != "robust", self.batch_top_k, self.matryoshka, self.anneal_from is not None
        return next((place for place, varied in enumerate(kinds, start=1) if varied), 0)

    def without(self, others: set["Setting"]) -> list[tuple[str, "Setting"]]:
        """Return, for each thing in which it varies one of the others, what it is and that other."""
        plainer = {
            "BatchTopK": self._replace(batch_top_k=False),
            "Matryoshka": self._replace(matryoshka=False),
            f"K falls from {self.anneal_from}": self._replace(anneal_from=None),
            "plain objective": self._replace(objective="robust"),
        }
        shorter = sorted((other for other in others if other._replace(steps=self.steps) == self), key=_steps)
        longer = [(f"{self.steps} steps", shorter[0])] if shorter and shorter[0].steps < self.steps else []
        return [*((words, o) for words, o in plainer.items() if o != self and o in others), *longer]


def _steps(setting: Setting) -> int:
    return setting.steps


def demo_grid() -> list[tuple[Setting, int]]:
    """Return the settings and seeds of the demo, what matters most first."""
    ks = [16, 4, 8, 32, 2]
    first = [Setting(k) for k in ks]
    first += [Setting(k, objective="plain") for k in ks]
    first += [Setting(k, expansion=e) for k in (16, 4) for e in (4, 16)]
    first += [Setting(k, steps=1800) for k in (16, 4)]
    first += [Setting(k, matryoshka=True) for k in (16, 4)]
    first += [Setting(k, anneal_from=64) for k in (16, 4)]
    first += [Setting(1), Setting(2, expansion=4), Setting(4, objective="plain", steps=1800)]
    batch = [(Setting(k, batch_top_k=True), seed) for seed in (0, 1, 2) for k in (4, 16, 2, 1)]
    return [*((s, 0) for s in first), *((Setting(k), seed) for seed in (1, 2) for k in (*ks, 1)), *batch]


def real_grid() -> list[tuple[Setting, int]]:
    """Return the settings and seeds of real recordings, what matters most first; variations are of a small SAE."""
    base = Setting(8, steps=1500)
    small = base._replace(expansion=2)
    first = [base._replace(k=k) for k in (8, 4, 32, 2, 64)]
    first += [small, small._replace(steps=500), small._replace(objective="plain")]
    first += [small._replace(k=k) for k in (32, 4, 2)]
    seeds = [(small._replace(k=k), 1) for k in (32, 8, 4, 2)]
    seeds += [(small._replace(k=1), seed) for seed in (0, 1)]
    varied = [small._replace(batch_top_k=True), small._replace(steps=4500)]
    last = [small._replace(matryoshka=True), small._replace(anneal_from=64)]
    more = [(base._replace(k=k), seed) for seed in (1, 2) for k in (4, 32, 8)]
    return [*((s, 0) for s in first), *seeds, *((s, 0) for s in varied), *more, *((s, 0) for s in last)]


GRIDS = {"demo": demo_grid, "real": real_grid}


def train(setting: Setting, seed: int, activations: Path, layer: int, folder: Path) -> None:
    """Train an SAE by the project's own training, and store it with the seconds that it took."""
    if (folder / "trained.json").is_file():
        return
    data = ActivationDataModule(
        activations, layer=layer, batch_tokens=BATCH_TOKENS, buffer_tokens=BUFFER_TOKENS, seed=seed
    )
    training = SAETraining(
        read_manifest(activations).d_in,
        setting.expansion,
        k=setting.k,
        lr=LR,
        robust=setting.objective == "robust",
        k_aux=K_AUX,
        dead_after_tokens=DEAD_AFTER_TOKENS,
        batch_top_k=setting.batch_top_k,
        matryoshka=[0.25, 0.25, 0.5] if setting.matryoshka else None,
        seed=seed,
    )
    callbacks: list[Callback] = []
    if setting.anneal_from is not None:
        callbacks.append(AnnealK(setting.anneal_from, setting.steps // 2))
    trainer = Trainer(
        devices=1,
        accelerator="cpu",
        max_steps=setting.steps,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=callbacks,
    )
    trainer.fit(training, data)
    training.trained()[setting.expansion].save_pretrained(folder / "sae")
    write_json(folder / "trained.json", {"setting": setting._asdict(), "seed": seed})
