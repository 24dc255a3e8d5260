"""Training on a pretended GPU: nothing is on the wrong device, and the host waits for nothing."""

import warnings
from itertools import pairwise

import pytest
import torch
from lightning import Callback, Trainer

from ard.activations import ActivationDataModule
from ard.activations.store import write_manifest, write_shard
from ard.sae import LogQuality, SAETraining, SaveSAE, TopKSAE, products
from tests.device.pretend import CPU, CUDA, pretend_cuda

D_IN, K, STEPS = 16, 4, 8
PLAIN = {"expansion": 4}
OPTIONS = {
    "plain": (PLAIN, 0),
    "robust": (PLAIN | {"robust": True, "dead_after_tokens": 64, "k_aux": 8}, 0),
    "several": ({"expansion": [2, 4, 8]}, 0),
    "matryoshka": (PLAIN | {"matryoshka": [0.25, 0.75]}, 0),
    "BatchTopK": (PLAIN | {"batch_top_k": True, "robust": True}, 2),  # once for every width of the codes that is tried
    "largest norms left out": (PLAIN | {"max_norm_multiple": 2.0}, 1),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    generator, about = (
        torch.Generator().manual_seed(0),
        {"model": "m", "layers": [1], "audio": "x", "dtype": "bfloat16"},
    )
    for shard in range(2):
        x = torch.randn(4, 50, D_IN, generator=generator).bfloat16()
        clips = [({"id": f"{shard}-{i}", "num_tokens": 50}, {1: clip}) for i, clip in enumerate(x)]
        write_shard(folder, shard, clips, [], about)
    write_manifest(folder, 2, D_IN, about)
    return folder


class Watch(Callback):
    """Keep what was waited for in each step, the first two and the last apart, in which things are set up or logged."""

    def __init__(self, waits, device):
        self.waits, self.device, self.steps = waits, device, []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        devices = {tensor.device for tensor in (batch, *pl_module.parameters(), *pl_module.buffers())}
        assert devices == {self.device}
        self.steps.append(len(self.waits))


def train(store, options, waits=(), device=CPU, **trainer):
    watch, module = Watch(waits, device), SAETraining(D_IN, k=K, lr=1e-2, **options)
    data = ActivationDataModule(store, layer=1, evaluation=store, batch_tokens=64, buffer_tokens=128)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Trainer(
            max_steps=STEPS,
            accelerator="cpu",
            logger=False,
            callbacks=[watch, LogQuality(), SaveSAE(store / "out" / "{expansion}")],
            enable_checkpointing=False,
            enable_model_summary=False,
            log_every_n_steps=1000,
            gradient_clip_val=1.0,
            num_sanity_val_steps=0,
            limit_val_batches=2,
            **trainer,
        ).fit(module, data)
    return module, watch.steps


@pytest.mark.parametrize(
    ("name", "precision"), [("plain", "32-true"), ("robust", "32-true"), *((name, "bf16-mixed") for name in OPTIONS)]
)
def test_a_step_waits_for_nothing_and_learns_what_it_learns_on_a_cpu(store, name, precision):
    options, most = OPTIONS[name]
    with pretend_cuda() as waits:
        module, steps = train(store, options, waits, CUDA, precision=precision)
        found = [weight.detach() for weight in module.parameters()]  # back on the CPU: Lightning moves them
        between = [waits[a:b] for a, b in pairwise(steps[2:])]
    assert len(between) == STEPS - 3
    for step in between:
        assert len(step) <= most, step
    alone, _ = train(store, options, precision=precision)
    for ours, expected in zip(found, alone.parameters(), strict=True):
        torch.testing.assert_close(ours, expected.detach(), atol=1e-5, rtol=1e-4)


def test_a_training_that_is_resumed_computes_products_as_it_began(store, tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"

    class Keep(Callback):
        def on_train_end(self, trainer, pl_module):
            trainer.save_checkpoint(path)

    def fit(max_steps, callbacks, ckpt_path=None):
        module = SAETraining(D_IN, 4, k=K)
        data = ActivationDataModule(store, layer=1, batch_tokens=64, buffer_tokens=128)
        quiet = dict.fromkeys(("enable_progress_bar", "enable_model_summary", "enable_checkpointing", "logger"), False)
        trainer = Trainer(max_steps=max_steps, callbacks=callbacks, limit_val_batches=0, **quiet)
        trainer.fit(module, data, ckpt_path=ckpt_path)
        return module.table

    slowest = {"dense": 1.0, "gather": 0.5}  # by chance, what is fast differs
    monkeypatch.setattr(products, "_milliseconds", lambda run, way, device: slowest[way])
    with pretend_cuda():
        first = fit(2, [Keep()])
        slowest["gather"] = 2.0
        resumed, anew = fit(4, [], path), fit(2, [])
    assert set(first.values()) == {"gather"}
    assert len(first) == len(products.PRODUCTS)
    assert resumed == first
    assert set(anew.values()) == {"dense"}


def test_what_is_chosen_is_logged(store, caplog):
    with pretend_cuda(), caplog.at_level("INFO", "ard.sae.module"):
        train(store, PLAIN, device=CUDA)
    lines = [record.message for record in caplog.records if record.name == "ard.sae.module"]
    assert len(lines) == len(products.PRODUCTS)
    assert all(" ms" in line and "d_in 16, float32, pretended: " in line for line in lines)


@pytest.mark.parametrize(
    ("precision", "float32_products", "said"),
    [
        ("32-true", "highest", "32-true"),
        ("32-true", "high", "32-true, products in TF32"),
        ("bf16-mixed", "high", "bf16-mixed"),
    ],
)
def test_the_precision_is_kept_with_the_sae_and_the_setting_ends_with_the_training(
    store, precision, float32_products, said
):
    with pretend_cuda():
        train(store, PLAIN | {"float32_products": float32_products}, device=CUDA, precision=precision)
    assert TopKSAE.from_pretrained(store / "out" / "4").metadata["precision"] == said
    assert torch.get_float32_matmul_precision() == "highest"


def test_on_a_cpu_there_is_no_tf32(store):
    train(store, PLAIN | {"float32_products": "high"})
    assert TopKSAE.from_pretrained(store / "out" / "4").metadata["precision"] == "32-true"
