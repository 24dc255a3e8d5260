import lightning
import pytest
import torch
from torch.utils.data import DataLoader

from ard.sae import SAETraining, SaveSAE, TopKSAE


def directions(num_tokens, seed=0):
    """Tokens that are sums of three of twenty directions, on top of a mean: what an SAE is made to take apart."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.nn.functional.normalize(torch.randn(20, 16, generator=torch.Generator().manual_seed(9)), dim=1)
    chosen = torch.rand(num_tokens, 20, generator=generator).argsort(dim=1)[:, :3]
    strengths = torch.zeros(num_tokens, 20).scatter(1, chosen, 1 + torch.rand(num_tokens, 3, generator=generator))
    return strengths @ basis + 2


def fit(tmp_path, steps=300, **options):
    module = SAETraining(16, expansion=4, k=3, lr=3e-3, dead_after_tokens=2000, k_aux=8, **options)
    trainer = lightning.Trainer(
        max_steps=steps,
        logger=False,
        accelerator="cpu",
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[SaveSAE(tmp_path / "sae")],
    )
    trainer.fit(module, DataLoader(directions(20000), batch_size=200))
    return module, trainer


@pytest.mark.parametrize(("robust", "most"), [(False, 0.6), (True, 0.35)])  # without a bias, the mean costs features
def test_training_explains_the_variance_and_saves_the_sae(tmp_path, robust, most):
    module, trainer = fit(tmp_path, robust=robust)
    x = directions(1000, seed=1)
    with torch.no_grad():
        unexplained = ((x - module(x)) ** 2).sum() / ((x - x.mean(dim=0)) ** 2).sum()
    assert unexplained < most
    assert trainer.callback_metrics["train/fvu"] < most
    saved = TopKSAE.from_pretrained(tmp_path / "sae")
    assert torch.equal(saved(x), module.sae(x))
    assert saved.pre_bias == robust


def test_robust_training_keeps_decoder_rows_at_unit_norm_and_learns_the_bias(tmp_path):
    module, _ = fit(tmp_path, steps=20, robust=True)
    torch.testing.assert_close(module.sae.W_dec.norm(dim=1), torch.ones(64))
    assert (module.sae.b_dec - 2).abs().max() < 1.5


def test_the_papers_recipe_has_no_decoder_bias(tmp_path):
    module, _ = fit(tmp_path, steps=5)
    assert not module.sae.b_dec.any()
    assert not module.sae.b_dec.requires_grad


def test_the_seed_fixes_the_weights(tmp_path):
    first, second = (fit(tmp_path, steps=5, seed=3)[0].sae.W_enc for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, fit(tmp_path, steps=5, seed=4)[0].sae.W_enc)


def test_silence_is_counted_in_tokens():
    module = SAETraining(4, expansion=2, k=1, dead_after_tokens=4)
    codes = module.sae.encode(torch.eye(4)[:1].repeat(3, 1))
    alive = int(codes.indices[0, 0])
    assert not module._count_silence(codes).any()
    dead = module._count_silence(codes)
    assert module.tokens_silent[alive] == 0
    assert dead.tolist() == [feature != alive for feature in range(8)]
