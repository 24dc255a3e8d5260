"""Dictionaries that were never trained: as wide and as sparse as the trained one, and nothing more of it."""

import pytest
import torch

from ard.sae import JumpReLUSAE, TopKSAE, load_dictionary, make_control
from ard.types import UserError


@pytest.fixture
def trained():
    torch.manual_seed(5)
    sae = TopKSAE(16, 64, k=4, pre_bias=True, metadata={"model_name": "m", "layer": 2})
    sae.b_dec.data.copy_(torch.randn(16))
    return sae


X = torch.randn(50, 16, generator=torch.Generator().manual_seed(1)) + 3


def made(kind, trained, seed=0, sizes=(20, 30)):
    return make_control(kind, trained, X.split(list(sizes)), len(X), seed)


@pytest.mark.parametrize("kind", ["untrained", "tokens"])
def test_a_control_is_as_wide_and_as_sparse_as_the_trained_one(kind, trained, tmp_path):
    control = made(kind, trained)
    assert (control.d_sae, control.k) == (64, 4)
    assert torch.equal(control.b_dec, trained.b_dec)
    assert torch.equal(control.W_enc, control.W_dec.T)
    assert not control.b_enc.any()
    assert torch.allclose(control.W_dec.norm(dim=1), torch.ones(64))
    assert not torch.isclose(control.W_dec @ trained.W_dec.T, torch.ones(())).any()
    control.save_pretrained(tmp_path)
    again = load_dictionary(tmp_path)
    assert (again.method, again.is_baseline) == ({"untrained": "Untrained SAE", "tokens": "Random tokens"}[kind], True)
    assert (trained.method, trained.is_baseline) == ("AR&D", False)


def test_every_draw_is_its_own_and_a_seed_gives_it_again(trained):
    first, again, second = (made("untrained", trained, seed).W_dec for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert (first * second).sum(dim=1).abs().max() < 0.95


def test_random_tokens_are_tokens_whatever_the_batches(trained):
    one, other = (made("tokens", trained, sizes=sizes) for sizes in ((20, 30), (1, 48, 1)))
    assert torch.equal(one.W_dec, other.W_dec)
    centred = torch.nn.functional.normalize(X - trained.b_dec, dim=1)
    assert torch.allclose((one.W_dec @ centred.T).amax(dim=1), torch.ones(64), atol=1e-6)


def test_without_a_pre_bias_the_mean_of_x_centres_the_control():
    control = made("untrained", TopKSAE(16, 64, k=4))
    assert control.pre_bias
    assert torch.allclose(control.b_dec, X.mean(dim=0), atol=1e-6)


def test_only_a_topk_sae_has_controls():
    with pytest.raises(UserError, match="a JumpReLUSAE has no untrained controls: set num_untrained to 0"):
        make_control("untrained", JumpReLUSAE(16, 64), [X], len(X), 0)
