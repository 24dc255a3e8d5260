import json

import pytest
import torch
from safetensors.torch import load_file

from ard.sae import PolyFeatures, TopKSAE
from ard.types import UserError


def tokens(n=20, d=6):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(1))


def sae(**options):
    return TopKSAE(6, 24, k=4, generator=torch.Generator().manual_seed(0), **options)


def test_the_forward_pass_is_equation_1():
    model, x = sae(), tokens()
    pre = x @ model.W_enc + model.b_enc
    kept = torch.zeros_like(pre).scatter(1, pre.topk(4).indices, pre.topk(4).values.relu())
    torch.testing.assert_close(model(x), kept @ model.W_dec)


def test_the_decoder_starts_as_the_encoders_transpose_with_unit_rows():
    model = sae()
    assert torch.equal(model.W_enc, model.W_dec.T)
    torch.testing.assert_close(model.W_dec.norm(dim=1), torch.ones(24))


def test_a_clamped_feature_is_selected_at_its_value_everywhere():
    codes = sae().encode(tokens(), {7: 100.0, 3: 50.0})
    for feature, value in {7: 100.0, 3: 50.0}.items():
        assert (codes.values[codes.indices == feature] == value).all()
        assert (codes.indices == feature).any(dim=1).all()


@pytest.mark.parametrize("options", [{}, {"pre_bias": True}, {"threshold": 0.5}])
def test_clamped_codes_are_topk_of_the_clamped_pre_activations(options):
    generator = torch.Generator().manual_seed(2)
    for d_sae, k, num_clamped in ((24, 4, 1), (24, 4, 4), (24, 23, 3), (24, 24, 24), (200, 16, 5), (6, 1, 1)):
        model = TopKSAE(6, d_sae, k=k, generator=generator, **options)
        torch.nn.init.normal_(model.b_enc, generator=generator)
        x = torch.randn(50, 6, generator=generator)
        for scale in (0.3, 1.0, 5.0):
            features = torch.randperm(d_sae, generator=generator)[:num_clamped].tolist()
            clamp = {f: scale * float(torch.rand((), generator=generator)) for f in features} | {features[0]: 0.0}
            pre = model.pre_activations(x)
            expected = [pre.clone(), pre.clone()]
            for feature, value in clamp.items():
                expected[1][:, feature] = value
            for codes, dense in zip(model.encode_both(x, clamp), expected, strict=True):
                kept = dense * (dense > 0.5) if options.get("threshold") else top(dense, k)
                assert all(len(set(of_token)) == len(of_token) for of_token in codes.indices.tolist())
                torch.testing.assert_close(torch.zeros_like(dense).scatter(1, codes.indices, codes.values), kept)


def top(dense, k):
    values, indices = dense.topk(k)
    return torch.zeros_like(dense).scatter(1, indices, values.relu())


def test_clamping_to_zero_silences_a_feature():
    model, x = sae(), tokens()
    feature = int(model.encode(x).indices[0, 0])
    codes = model.encode(x, {feature: 0.0})
    assert not codes.values[codes.indices == feature].any()


@pytest.mark.parametrize("pre_bias", [False, True])
def test_a_saved_sae_comes_back_the_same(tmp_path, pre_bias):
    model = sae(pre_bias=pre_bias, metadata={"layer": 3})
    torch.nn.init.normal_(model.b_dec) if pre_bias else None
    model.save_pretrained(tmp_path)
    again = TopKSAE.from_pretrained(tmp_path)
    assert torch.equal(again(tokens()), model(tokens()))
    assert again.metadata["layer"] == 3
    assert {name: tuple(t.shape) for name, t in load_file(tmp_path / "sae_weights.safetensors").items()} == {
        "W_enc": (6, 24),
        "b_enc": (24,),
        "W_dec": (24, 6),
        "b_dec": (6,),
    }
    assert json.loads((tmp_path / "cfg.json").read_text(encoding="utf-8"))["architecture"] == "topk"


def test_what_is_no_topk_sae_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no SAE"):
        TopKSAE.from_pretrained(tmp_path)
    sae().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text(encoding="utf-8"))
    (tmp_path / "cfg.json").write_text(json.dumps({**config, "architecture": "gated"}), encoding="utf-8")
    with pytest.raises(UserError, match="architecture is 'gated', only 'topk' or 'jumprelu' can be read"):
        TopKSAE.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="k must be between 1 and d_sae = 24, got 25"):
        TopKSAE(6, 24, k=25)


def test_raw_coordinates_go_through_the_same_doors():
    x = tokens()
    poly = PolyFeatures(6)
    assert torch.equal(poly.decode(poly.encode(x)), x)
    clamped = poly.decode(poly.encode(x, {2: 9.0}))
    assert (clamped[:, 2] == 9).all()
    assert torch.equal(clamped[:, [0, 1, 3, 4, 5]], x[:, [0, 1, 3, 4, 5]])


def test_a_scaled_sae_makes_as_much_of_scaled_tokens():
    model = sae(pre_bias=True)
    torch.nn.init.normal_(model.b_dec)
    torch.nn.init.normal_(model.b_enc)
    torch.testing.assert_close(model.scaled(5.0)(5 * tokens()), 5 * model(tokens()))


def test_no_tokens_are_no_error():
    assert sae()(tokens()[:0]).shape == (0, 6)
    assert sae(threshold=0.1).encode(tokens()[:0]).values.shape[0] == 0
    assert sae(threshold=0.1).encode(tokens()[:0], {3: 1.0}).values.shape[0] == 0


def test_with_a_threshold_tokens_keep_what_is_above_it(tmp_path):
    model, x = sae(threshold=0.7, pre_bias=True), tokens()
    pre = model.pre_activations(x)
    expected = torch.where(pre > 0.7, pre, 0)
    model.save_pretrained(tmp_path)
    for each in (model, TopKSAE.from_pretrained(tmp_path)):
        for codes in (each.encode(x), each.encode(x, {5: 0.0})):
            dense = torch.zeros_like(pre).scatter(1, codes.indices, codes.values)
            torch.testing.assert_close(dense[:, :5], expected[:, :5])
        assert not dense[:, 5].any()
        torch.testing.assert_close(each(x), expected @ model.W_dec)
    assert TopKSAE.from_pretrained(tmp_path).k == 4


def test_sae_lens_reads_one_with_a_threshold(peers, tmp_path):
    model, x = sae(threshold=0.7, pre_bias=True), tokens()
    torch.nn.init.normal_(model.b_dec)
    model.save_pretrained(tmp_path)
    theirs = peers.sae_lens.SAE.load_from_disk(tmp_path)
    torch.testing.assert_close(theirs(x), model(x))


def test_training_keeps_the_mean_of_the_batches_thresholds():
    model, x = sae(threshold=0.0), tokens()
    smallest = [model.encode_to_train(part).values for part in x.split(10)]
    first, second = (values[values > 0].min() for values in smallest)
    torch.testing.assert_close(model.threshold, first + (second - first) * 0.01)
