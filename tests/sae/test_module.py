import lightning
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch.utils.data import DataLoader

from ard.sae import AnnealK, LogQuality, SAETraining, SaveSAE, TopKSAE, WarmUpAndDecay
from ard.types import UserError


def directions(num_tokens, seed=0):
    """Tokens that are sums of three of twenty directions, on top of a mean: what an SAE is made to take apart."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.nn.functional.normalize(torch.randn(20, 16, generator=torch.Generator().manual_seed(9)), dim=1)
    chosen = torch.rand(num_tokens, 20, generator=generator).argsort(dim=1)[:, :3]
    strengths = torch.zeros(num_tokens, 20).scatter(1, chosen, 1 + torch.rand(num_tokens, 3, generator=generator))
    return strengths @ basis + 2


QUIET = {
    "logger": False,
    "accelerator": "cpu",
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def fit(tmp_path, steps=300, *, expansion=4, callbacks=(), trainer=None, gain=1.0, **options):
    options = {"k": 3, "lr": 3e-3, "dead_after_tokens": 2000, "k_aux": 8, **options}
    module = SAETraining(16, expansion, **options)
    save = SaveSAE(tmp_path / "e{expansion}" / "sae")
    settings = {**QUIET, "val_check_interval": min(steps, 100), **(trainer or {})}
    fitter = lightning.Trainer(**{"max_steps": steps, "callbacks": [save, *callbacks], **settings})
    loaders = (DataLoader(gain * directions(n, seed), batch_size=200) for n, seed in ((20000, 0), (1000, 1)))
    fitter.fit(module, *loaders)
    return module, fitter


@pytest.mark.slow
@pytest.mark.parametrize(("robust", "most"), [(False, 0.6), (True, 0.35)])  # without a bias, the mean costs features
def test_training_explains_the_variance_and_saves_the_sae(tmp_path, robust, most):
    module, trainer = fit(tmp_path, robust=robust, callbacks=[LogQuality()])
    x = directions(1000, seed=1)
    with torch.no_grad():
        unexplained = ((x - module(x)) ** 2).sum() / ((x - x.mean(dim=0)) ** 2).sum()
    assert unexplained < most
    assert trainer.callback_metrics["train/fvu"] < most
    assert trainer.callback_metrics["val/fvu"] == pytest.approx(float(unexplained), rel=1e-4)
    saved = TopKSAE.from_pretrained(tmp_path / "e4" / "sae")
    torch.testing.assert_close(saved(x), module(x))
    assert saved.pre_bias == robust
    if not robust:
        assert torch.equal(saved(x), module.sae(x))


@pytest.mark.parametrize("trainer", [{"log_every_n_steps": 0}, {"max_steps": -1, "limit_train_batches": 20}])
def test_the_last_step_has_figures_however_it_is_logged_and_ended(tmp_path, trainer):
    _, fitter = fit(tmp_path, steps=20, trainer={"max_epochs": 1, "log_every_n_steps": 50} | trainer)
    assert fitter.global_step == 20
    assert fitter.callback_metrics["train/fvu"] > 0


def test_robust_training_does_not_depend_on_the_unit_of_x(tmp_path):
    module, _ = fit(tmp_path, steps=20, robust=True)
    loud, _ = fit(tmp_path, steps=20, robust=True, gain=64.0)
    assert loud.scale == 64 * module.scale
    assert torch.equal(loud.sae.W_dec, module.sae.W_dec)
    torch.testing.assert_close(loud.trained()[4](64 * directions(50)), 64 * module(directions(50)))
    x = directions(20000)[:200]  # the first batch
    assert module.scale == pytest.approx((x - x.mean(dim=0)).pow(2).sum(dim=1).mean().sqrt().item())


def test_robust_training_keeps_decoder_rows_at_unit_norm_and_learns_the_bias(tmp_path):
    module, _ = fit(tmp_path, steps=20, robust=True)
    torch.testing.assert_close(module.sae.W_dec.norm(dim=1), torch.ones(64))
    assert (module.trained()[4].b_dec - 2).abs().max() < 1.5


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
    assert not module._count_silence(codes, module.tokens_silent, module.num_firing).any()
    dead = module._count_silence(codes, module.tokens_silent, module.num_firing)
    assert module.tokens_silent[alive] == 0
    assert dead.tolist() == [feature != alive for feature in range(8)]
    assert module.num_firing.tolist() == [6 * (feature == alive) for feature in range(8)]


OPTIONS = {
    "paper": {},
    "robust": {"robust": True},
    "batch top k": {"batch_top_k": True},
    "matryoshka": {"robust": True, "matryoshka": [0.25, 0.75]},
    "clipped": {"robust": True, "trainer": {"gradient_clip_val": 1e-3}},
    "bf16": {"robust": True, "trainer": {"precision": "bf16-mixed", "gradient_clip_val": 1.0}},
}


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_side_by_side_each_sae_becomes_what_it_would_have_become_alone(tmp_path, options):
    together, trainer = fit(tmp_path, steps=40, expansion=[2, 4, 8], callbacks=[LogQuality()], **options)
    assert len(trainer.optimizers) == 1
    for e, sae in together.by_expansion.items():
        alone, lone_trainer = fit(tmp_path / "alone", steps=40, expansion=e, callbacks=[LogQuality()], **options)
        for name, tensor in alone.sae.state_dict().items():
            assert torch.equal(sae.state_dict()[name], tensor), name
        for name in ("fvu", "dead_share"):
            assert trainer.callback_metrics[f"val/e{e}/{name}"] == lone_trainer.callback_metrics[f"val/{name}"]
        saved, alone_saved = (tmp_path / part / f"e{e}" / "sae" / "sae_weights.safetensors" for part in (".", "alone"))
        assert saved.read_bytes() == alone_saved.read_bytes()


def test_several_saes_want_a_folder_each(tmp_path):
    module = SAETraining(16, [2, 4], k=3)
    trainer = lightning.Trainer(max_steps=1, callbacks=[SaveSAE(tmp_path / "sae")], **QUIET)
    with pytest.raises(UserError, match=r"expansions \[2, 4\] cannot all be saved to .*: put {expansion} into it"):
        trainer.fit(module, DataLoader(directions(200), batch_size=200))


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_every_option_learns(tmp_path, options):
    module, trainer = fit(tmp_path, steps=200, callbacks=[LogQuality()], **{"lr": 1e-2, **options})
    clipped = "gradient_clip_val" in options.get("trainer", {})
    assert trainer.callback_metrics["val/fvu"] < (0.9 if clipped else 0.6)
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}


@pytest.mark.slow
def test_batch_top_k_is_kept_as_a_threshold_that_gives_k_features_a_token(tmp_path):
    fit(tmp_path, steps=300, batch_top_k=True, robust=True, lr=1e-2)
    codes = TopKSAE.from_pretrained(tmp_path / "e4" / "sae").encode(directions(2000, seed=3))
    assert (codes.values > 0).sum(dim=1).float().mean() == pytest.approx(3, abs=1)


class Watch(lightning.Callback):
    """Note k and the learning rate of every step."""

    def __init__(self):
        self.k, self.lr = [], []

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        self.k.append(pl_module.sae.k)
        self.lr.append(optimizer.param_groups[0]["lr"])


def test_k_and_the_learning_rate_change_on_the_way(tmp_path):
    watch = Watch()
    callbacks = [AnnealK(11, 4), WarmUpAndDecay(2, 5), watch]
    module, _ = fit(tmp_path, steps=10, lr=1.0, callbacks=callbacks)
    assert watch.k == [11, 9, 7, 5, 3, 3, 3, 3, 3, 3]
    assert watch.lr == pytest.approx([0, 0.5, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])
    assert module.sae.k == 3
    assert fit(tmp_path, steps=2, callbacks=[AnnealK(11, 4)])[0].sae.k == 3


def test_tokens_of_great_norm_are_left_out():
    module = SAETraining(16, 2, k=3, max_norm_multiple=3.0)
    plain = SAETraining(16, 2, k=3)
    x = directions(100)
    with_outliers = torch.cat([x, 10 * x[:4]])
    assert module.training_step(with_outliers, 0) == plain.training_step(x, 0)
    assert plain.training_step(with_outliers, 0) != plain.training_step(x, 0)


@pytest.mark.slow
def test_lightnings_average_of_the_weights_is_what_is_saved(tmp_path):
    average = EMAWeightAveraging(decay=0.9, use_buffers=False)
    module, _ = fit(tmp_path, steps=50, callbacks=[average])
    plain, _ = fit(tmp_path / "plain", steps=50)
    saved = TopKSAE.from_pretrained(tmp_path / "e4" / "sae")
    assert torch.equal(saved.W_dec, module.sae.W_dec)
    assert not torch.equal(saved.W_dec, plain.sae.W_dec)
    torch.testing.assert_close(saved.W_dec, plain.sae.W_dec, atol=0.1, rtol=0)


def test_training_goes_on_where_it_was_stopped(tmp_path):
    whole, _ = fit(tmp_path / "whole", steps=10, robust=True)
    options = {"robust": True, "trainer": {"enable_checkpointing": True, "default_root_dir": tmp_path}}
    _, trainer = fit(tmp_path / "half", steps=5, **options)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    again = SAETraining(16, 4, k=3, lr=3e-3, dead_after_tokens=2000, k_aux=8, robust=True)
    lightning.Trainer(max_steps=10, **QUIET).fit(
        again, DataLoader(directions(20000)[5 * 200 :], batch_size=200), ckpt_path=tmp_path / "half.ckpt"
    )
    for name, tensor in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
