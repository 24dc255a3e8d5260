"""The formulas and the training are those of SAELens and dictionary_learning, whose own code gives what is expected."""

import lightning
import pytest
import torch
from torch.utils.data import DataLoader

from ard.sae import SAETraining, TopKSAE, WarmUpAndDecay

ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-6}


def sizes(seed):
    """Return d_in, d_sae, k and the number of tokens: the width is 1 to 64, k 1 to all features."""
    generator = torch.Generator().manual_seed(seed)
    d_in, num_tokens = (int(torch.randint(low, 65, (1,), generator=generator)) for low in (1, 2))
    d_sae = int(torch.randint(d_in, 8 * d_in + 1, (1,), generator=generator))
    return d_in, d_sae, int(torch.randint(1, d_sae + 1, (1,), generator=generator)), num_tokens


def random_sae(seed, dtype):
    """Return an SAE whose every weight is random, and tokens."""
    d_in, d_sae, k, num_tokens = sizes(seed)
    generator = torch.Generator().manual_seed(seed)
    sae = TopKSAE(d_in, d_sae, k=k, pre_bias=True, generator=generator).to(dtype)
    for parameter in sae.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=dtype) / d_in**0.5
    return sae, torch.randn(num_tokens, d_in, generator=generator, dtype=dtype)


def theirs_in_dictionary_learning(peers, sae):
    theirs = peers.dictionary_learning.top_k.AutoEncoderTopK(sae.d_in, sae.d_sae, sae.k).to(sae.W_enc.dtype)
    theirs.encoder.weight.data = sae.W_enc.data.T.clone()
    theirs.encoder.bias.data = sae.b_enc.data.clone()
    theirs.decoder.weight.data = sae.W_dec.data.T.clone()
    theirs.b_dec.data = sae.b_dec.data.clone()
    grads = {
        "W_enc": lambda: theirs.encoder.weight.grad.T,
        "b_enc": lambda: theirs.encoder.bias.grad,
        "W_dec": lambda: theirs.decoder.weight.grad.T,
        "b_dec": lambda: theirs.b_dec.grad,
    }
    return theirs, grads


def theirs_in_sae_lens(peers, sae):
    lens = peers.sae_lens
    config = lens.TopKSAEConfig(sae.d_in, sae.d_sae, k=sae.k, dtype=str(sae.W_enc.dtype).removeprefix("torch."))
    theirs = lens.TopKSAE(config)
    theirs.load_state_dict({name: tensor.clone() for name, tensor in sae.state_dict().items()})
    return theirs, {name: lambda name=name: getattr(theirs, name).grad for name in ("W_enc", "b_enc", "W_dec", "b_dec")}


def assert_equal(ours, theirs, rounding, what):
    """Compare to rounding, relative to the largest entry: of a tensor, entries are sums of terms of one scale."""
    scale = theirs.abs().max().clamp_min(1)
    assert (ours - theirs).abs().max() <= rounding * scale, what


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("library", [theirs_in_dictionary_learning, theirs_in_sae_lens])
def test_outputs_and_gradients_are_the_peers(peers, library, dtype):
    rows_with_negatives = 0
    for seed in range(60):
        sae, x = random_sae(seed, dtype)
        theirs, grads = library(peers, sae)
        ours_x, theirs_x = (x.clone().requires_grad_() for _ in range(2))
        target = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
        codes, x_hat, x_hat_theirs = sae.encode(x), sae(ours_x), theirs(theirs_x)
        ((x_hat - target) ** 2).sum(dim=-1).mean().backward()
        ((x_hat_theirs - target) ** 2).sum(dim=-1).mean().backward()
        dense = torch.zeros(len(x), sae.d_sae, dtype=dtype).scatter(1, codes.indices, codes.values)
        assert_equal(dense, theirs.encode(x), ROUNDING[dtype], f"codes, seed {seed}")
        assert_equal(x_hat, x_hat_theirs, ROUNDING[dtype], f"x_hat, seed {seed}")
        assert_equal(ours_x.grad, theirs_x.grad, ROUNDING[dtype], f"gradient of x, seed {seed}")
        for name, grad in grads.items():
            assert_equal(getattr(sae, name).grad, grad(), ROUNDING[dtype], f"gradient of {name}, seed {seed}")
        rows_with_negatives += int((sae.pre_activations(x).topk(sae.k).values.min(dim=1).values < 0).sum())
    assert rows_with_negatives > 500


def batches(num_steps, num_tokens, d_in):
    """Return tokens with a variance of 1 in every batch: there dictionary_learning's loss and ours are one number.

    Theirs is the squared error plus AuxK / 32; ours (reference [17]) divides the squared error by the batch's variance.
    """
    x = torch.randn(num_steps, num_tokens, d_in, generator=torch.Generator().manual_seed(1)) ** 3
    x = x - x.mean(dim=1, keepdim=True)
    return x / x.pow(2).sum(dim=-1, keepdim=True).mean(dim=1, keepdim=True).sqrt() + 0.3


class Watch(lightning.Callback):
    """Keep what happened at every step."""

    def __init__(self):
        self.losses, self.dead, self.norms = [], [], []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.norms.append(float(torch.nn.utils.get_total_norm([p.grad for p in pl_module.parameters()])))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(float(outputs["loss"]))
        self.dead.append(float(trainer.callback_metrics["train/dead_share"]))


def test_robust_training_follows_dictionary_learnings_trainer(peers):
    d_in, d_sae, k, num_steps, num_tokens, lr, warmup_steps = 16, 128, 4, 30, 64, 2e-3, 5
    data = batches(num_steps, num_tokens, d_in)
    trainer = peers.dictionary_learning.TopKTrainer(
        num_steps, d_in, d_sae, k, 0, "no model", lr=lr, warmup_steps=warmup_steps, seed=0, device="cpu"
    )
    trainer.dead_feature_threshold = 2 * num_tokens
    trainer.ae.encoder.weight.data *= 1.3  # so that the first gradients are long enough to be clipped
    ours = SAETraining(
        d_in, d_sae // d_in, k=k, lr=lr, robust=True, k_aux=trainer.top_k_aux, dead_after_tokens=2 * num_tokens - 1
    )
    ours.sae.W_dec.data = trainer.ae.decoder.weight.data.T.clone()
    ours.sae.W_enc.data = trainer.ae.encoder.weight.data.T.clone()

    theirs = [trainer.update(step, batch) for step, batch in enumerate(data)]

    watch = Watch()
    lightning.Trainer(
        max_steps=num_steps,
        log_every_n_steps=1,
        gradient_clip_val=1.0,
        logger=False,
        accelerator="cpu",
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[watch, WarmUpAndDecay(warmup_steps)],
    ).fit(ours, DataLoader(data, batch_size=None))
    assert theirs[-1] < 0.8 * theirs[0]
    assert max(watch.norms) > 1 > min(watch.norms)  # some gradients are clipped, some are not
    assert max(watch.dead) > 0  # so that AuxK is in it
    assert watch.losses == pytest.approx(theirs, rel=1e-4)
    torch.testing.assert_close(ours.sae.W_dec, trainer.ae.decoder.weight.T, atol=1e-4, rtol=0)
