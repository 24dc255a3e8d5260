"""Training in bfloat16 gives what training in float32 gives; the precision is kept with the SAE."""

import pytest
import torch
from lightning import Trainer
from torch.utils.data import DataLoader

from ard.sae import LogQuality, SAETraining, SaveSAE, TopKSAE
from ard.sae.functional import decode_sparse, encode_top_k

D_IN, K, TOKENS = 128, 16, 256
"""As wide as the demo, and as sparse."""


def tokens(num_steps, seed=0):
    """Return batches of sparse sums of directions with some noise, as an SAE is meant for."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(512, D_IN, generator=torch.Generator().manual_seed(7)) / D_IN**0.5
    strength = torch.rand(num_steps * TOKENS, 512, generator=generator)
    active = torch.rand(strength.shape, generator=generator) < 12 / 512
    x = (strength * active) @ directions + 0.02 * torch.randn(num_steps * TOKENS, D_IN, generator=generator)
    return x.view(num_steps, TOKENS, D_IN)


def train(folder, precision, num_steps):
    """Train an SAE; return it and its FVU on tokens that it was not trained on."""
    module = SAETraining(D_IN, 4, k=K, lr=1e-3)
    trainer = Trainer(
        max_steps=num_steps,
        accelerator="cpu",
        precision=precision,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[LogQuality(), SaveSAE(folder)],
    )
    batches = [DataLoader(list(tokens(n, seed)), batch_size=None) for n, seed in ((100, 0), (4, 1))]
    trainer.fit(module, *batches)
    return TopKSAE.from_pretrained(folder), float(trainer.callback_metrics["val/fvu"])


@pytest.mark.slow
def test_after_1000_steps_the_reconstruction_is_that_of_float32(tmp_path):
    (exact, exact_fvu), (rounded, rounded_fvu) = (
        train(tmp_path / precision, precision, 1000) for precision in ("32-true", "bf16-mixed")
    )
    assert exact_fvu < 0.5  # it has learnt
    assert rounded_fvu == pytest.approx(exact_fvu, rel=0.01)
    x = tokens(8, seed=2).flatten(0, 1)
    with torch.no_grad():
        expected = exact.encode(x).indices
        with torch.autocast("cpu", torch.bfloat16):
            found = exact.encode(x).indices
    same = (expected[:, :, None] == found[:, None, :]).any(dim=2).float().mean()
    assert same > 0.99
    assert rounded.metadata["precision"] == "bf16-mixed"
    assert exact.metadata["precision"] == "32-true"


def test_all_five_products_are_rounded_and_nothing_else_is():
    generator = torch.Generator().manual_seed(0)
    shapes = (TOKENS, D_IN), (D_IN, 512), (512,), (512, D_IN)
    x, w_enc, b_enc, w_dec = (torch.randn(shape, generator=generator) / 11 for shape in shapes)
    target = torch.randn(x.shape, generator=generator)

    def run(tensors, dtype):
        given = [tensor.to(dtype).requires_grad_() for tensor in tensors]
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.float32):
            codes = encode_top_k(*given[:3], K)
            x_hat = decode_sparse(codes, given[3])
        return codes, x_hat, torch.autograd.grad((x_hat - target.to(dtype)).pow(2).sum(), given)

    codes, x_hat, gradients = run((x, w_enc, b_enc, w_dec), torch.float32)
    assert {tensor.dtype for tensor in (codes.values, x_hat, *gradients)} == {torch.float32}
    # The same by hand: operands rounded, products added up in float64.
    pre = (x.bfloat16().double() @ w_enc.bfloat16().double() + b_enc.bfloat16().double()).gather(1, codes.indices)
    assert (codes.values - pre.relu()).abs().max() <= 2**-8 * pre.abs().max()  # pre-activations are bfloat16
    z = torch.zeros(TOKENS, 512, dtype=torch.float64)
    z.scatter_(1, codes.indices, codes.values.bfloat16().double())
    by_hand = z @ w_dec.bfloat16().double()
    torch.testing.assert_close(x_hat.double(), by_hand, atol=1e-6, rtol=1e-5)
    d_x_hat = (2 * (x_hat - target)).bfloat16().double()
    d_z = (d_x_hat @ w_dec.bfloat16().double().T).gather(1, codes.indices) * (codes.values > 0)
    torch.testing.assert_close(gradients[3].double(), z.T @ d_x_hat, atol=1e-5, rtol=1e-5)
    d_b = torch.zeros(512).double().index_add(0, codes.indices.flatten(), d_z.flatten())
    torch.testing.assert_close(gradients[2].double(), d_b, atol=1e-4, rtol=1e-4)
    dense = torch.zeros(TOKENS, 512, dtype=torch.float64).scatter(1, codes.indices, d_z.float().bfloat16().double())
    torch.testing.assert_close(gradients[1].double(), x.bfloat16().double().T @ dense, atol=2e-3, rtol=1e-2)
    torch.testing.assert_close(gradients[0].double(), dense @ w_enc.bfloat16().double().T, atol=2e-3, rtol=1e-2)
