import re
from pathlib import Path

import pytest
import torch

import ard
from ard.sae import Dictionary, JumpReLUSAE, PolyFeatures, TopKSAE, load_dictionary
from ard.types import Codes, UserError


class Halves(Dictionary):
    """As little as a dictionary says: x and -x, what is positive of each, and a mean that is added back."""

    def __init__(self, d_in):
        super().__init__(d_in, 2 * d_in)
        self.register_buffer("mean", torch.arange(d_in, dtype=torch.float64))

    def pre_activations(self, x):
        return torch.cat([x - self.mean, self.mean - x], dim=1)

    def encode(self, x, clamp=None):
        values = self.pre_activations(x).relu()
        for feature, value in (clamp or {}).items():
            values[:, feature] = value
        return Codes(values, torch.arange(self.d_sae).expand(values.shape))

    def decode(self, codes):
        z = torch.zeros(len(codes.values), self.d_sae, dtype=codes.values.dtype).scatter(1, codes.indices, codes.values)
        return z[:, : self.d_in] - z[:, self.d_in :] + self.mean


def test_what_a_variant_does_not_say_holds_as_for_an_sae():
    dictionary, x = Halves(3), torch.randn(5, 3, dtype=torch.float64)
    assert (dictionary.method, dictionary.expansion, dictionary.is_baseline) == ("AR&D", 2, False)
    torch.testing.assert_close(dictionary(x), x)
    plain, clamped = dictionary.encode_both(x, {4: 7.0})
    assert torch.equal(plain.values, dictionary.encode(x).values)
    assert (clamped.values[:, 4] == 7).all()
    identity = torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(dictionary.directions(), torch.cat([identity, -identity]))
    torch.testing.assert_close(dictionary.directions([4, 0]), torch.stack([-identity[1], identity[0]]))
    with pytest.raises(UserError, match=r"feature 1 cannot be set to -0.5: .* 0 turns it off"):
        dictionary.check_clamp({4: 1.0, 1: -0.5})


def test_directions_are_the_rows_of_an_saes_decoder():
    for sae in (TopKSAE(4, 8, k=2, pre_bias=True), JumpReLUSAE(4, 8)):
        torch.nn.init.normal_(sae.b_dec)
        assert torch.equal(sae.directions(), sae.W_dec)
        assert torch.equal(sae.directions([5, 2]), sae.W_dec[[5, 2]])
        torch.testing.assert_close(Dictionary.directions(sae), sae.W_dec.detach())
    assert torch.equal(PolyFeatures(3).directions(), torch.eye(3))


def test_raw_coordinates_are_a_baseline_without_an_expansion(tmp_path):
    poly = load_dictionary("poly", 3)
    assert (poly.method, poly.expansion, poly.is_baseline) == ("Poly. Feats.", None, True)
    poly.check_clamp({0: -1.0})
    with pytest.raises(UserError, match="raw coordinates \\('poly'\\) have no width of their own: give d_in"):
        load_dictionary("poly")


def test_no_stage_asks_which_dictionary_it_has():
    """What depends on the dictionary is said by the dictionary, and what is the run's own by ``Row.is_own``."""
    asked = re.compile(
        r"isinstance\([^)]*\b((TopK|JumpReLU)?SAE|PolyFeatures)\b|[=!]= *[\"']AR&D|startswith\([\"']AR&D"
    )
    files = [path for path in Path(ard.__file__).parent.rglob("*") if path.suffix in (".py", ".html")]
    found = [
        f"{path.name}: {line}"
        for path in files
        for line in path.read_text(encoding="utf-8").splitlines()
        if asked.search(line)
    ]
    assert len(files) > 100
    assert found == []


def test_half_waves_are_both_signs_of_every_coordinate():
    x = torch.tensor([[1.5, -2.0, 0.0], [-0.5, 3.0, 1.0]])
    halves = load_dictionary("half-waves", 3)
    assert (halves.method, halves.d_sae, halves.expansion) == ("Poly. Feats., half-waves", 6, None)
    assert halves.is_baseline
    codes = halves.encode(x)
    dense = torch.zeros(2, 6).scatter(1, codes.indices, codes.values)
    assert torch.equal(dense, torch.cat([x.relu(), (-x).relu()], dim=1))
    assert torch.equal(halves.decode(codes), x)
    assert torch.equal(halves.directions(), torch.cat([torch.eye(3), -torch.eye(3)]))
    steered = halves.decode(halves.encode(x, {1: 4.0, 3: 2.0}))  # of coordinate 1 the positive half, of 0 the negative
    assert torch.equal(steered, torch.tensor([[-2.0, 4.0, 0.0], [-2.0, 4.0, 1.0]]))
    assert torch.equal(halves.pre_activations(x), torch.cat([x, -x], dim=1))
    with pytest.raises(UserError, match=r"raw coordinates \('half-waves'\) have no width of their own: give d_in"):
        load_dictionary("half-waves")
    with pytest.raises(UserError, match="cannot be set to -1"):
        halves.check_clamp({2: -1.0})
