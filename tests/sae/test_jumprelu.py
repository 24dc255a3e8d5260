import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from ard.cli import main
from ard.sae import JumpReLUSAE, TopKSAE, load_dictionary
from ard.sae.formats import convert, read
from ard.types import UserError

D_IN, D_SAE = 6, 24


def random_tensors(dtype=torch.float32):
    """Thresholds of both signs: what is below one of these is still cut off by the ReLU."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"W_enc": (D_IN, D_SAE), "b_enc": (D_SAE,), "W_dec": (D_SAE, D_IN), "b_dec": (D_IN,)}
    shapes["threshold"] = (D_SAE,)
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for name, shape in shapes.items()
    }


def sae(dtype=torch.float32, pre_bias=True):
    made = JumpReLUSAE(D_IN, D_SAE, pre_bias=pre_bias, metadata={"model_name": "some/model"}).to(dtype)
    made.load_state_dict(random_tensors(dtype))
    return made


def tokens(dtype=torch.float32):
    return torch.randn(50, D_IN, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype) + 0.5


def dense(codes):
    return torch.zeros(len(codes.values), D_SAE, dtype=codes.values.dtype).scatter(1, codes.indices, codes.values)


def assert_same(ours, theirs):
    tolerance = 1e-12 if ours.dtype == torch.float64 else 1e-5
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("pre_bias", [True, False])
def test_sae_lens_opens_what_is_saved_and_computes_the_same(peers, tmp_path, pre_bias, dtype):
    ours, x = sae(dtype, pre_bias), tokens(dtype)
    ours.save_pretrained(tmp_path)
    theirs = peers.sae_lens.SAE.load_from_disk(tmp_path)
    assert isinstance(theirs, peers.sae_lens.JumpReLUSAE)
    assert_same(dense(ours.encode(x)), theirs.encode(x))
    assert_same(ours(x), theirs(x))


@pytest.mark.parametrize("pre_bias", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_what_sae_lens_saved_is_loaded_as_what_it_is(peers, tmp_path, training, pre_bias):
    lens, tensors = peers.sae_lens, random_tensors()
    if training:
        theirs = lens.JumpReLUTrainingSAE(lens.JumpReLUTrainingSAEConfig(D_IN, D_SAE, apply_b_dec_to_input=pre_bias))
        theirs.load_state_dict(tensors)
        theirs.save_inference_model(tmp_path)
        theirs = lens.SAE.load_from_disk(tmp_path)
    else:
        theirs = lens.JumpReLUSAE(lens.JumpReLUSAEConfig(D_IN, D_SAE, apply_b_dec_to_input=pre_bias))
        theirs.load_state_dict(tensors)
        theirs.save_model(tmp_path)
    ours, x = load_dictionary(tmp_path), tokens()
    assert isinstance(ours, JumpReLUSAE)
    torch.testing.assert_close(ours.threshold, tensors["threshold"])
    assert_same(dense(ours.encode(x)), theirs.encode(x))
    assert_same(ours(x), theirs(x))


def test_codes_are_as_wide_as_the_busiest_token_needs_and_zero_beyond():
    codes = sae().encode(tokens())
    num_active = (codes.values > 0).sum(dim=1)
    assert codes.values.shape[1] == num_active.max() < D_SAE
    assert len(num_active.unique()) > 3
    assert all(len(set(of_token)) == len(of_token) for of_token in codes.indices.tolist())
    assert sae().encode(tokens()[:0]).values.shape[0] == 0
    assert sae()(tokens()[:0]).shape == (0, D_IN)


@pytest.mark.parametrize("value", [0.0, 1e-3, 30.0])
def test_a_feature_that_is_set_has_the_value_however_high_its_threshold(value):
    model, x = sae(), tokens()
    highest = int(model.threshold.argmax())
    clamp = {highest: value, int(model.threshold.argmin()): 2 * value}
    plain, clamped = model.encode_both(x, clamp)
    expected = dense(model.encode(x))
    assert torch.equal(dense(plain), expected)
    for feature, wanted in clamp.items():
        expected[:, feature] = wanted
    assert torch.equal(dense(clamped), expected)
    assert torch.equal(dense(model.encode(x, clamp)), expected)


def test_negative_values_are_refused():
    with pytest.raises(UserError, match=r"feature 3 cannot be set to -1.0: an SAE's activations are 0 or more"):
        sae().check_clamp({3: -1.0})
    sae().check_clamp(dict.fromkeys(range(D_SAE), 1.0))  # there is no k


@pytest.mark.parametrize(("saved", "loaded"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)])
def test_half_precision_becomes_single(tmp_path, saved, loaded):
    sae(saved).save_pretrained(tmp_path)
    again = JumpReLUSAE.from_pretrained(tmp_path)
    assert {tensor.dtype for tensor in again.parameters()} == {loaded}
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, random_tensors(saved)[name].to(loaded))
    assert again.metadata["model_name"] == "some/model"


def test_each_class_says_who_opens_the_other_ones_folder(tmp_path):
    sae().save_pretrained(tmp_path / "jump")
    TopKSAE(D_IN, D_SAE, k=4).save_pretrained(tmp_path / "top")
    TopKSAE(D_IN, D_SAE, k=4, threshold=0.5).save_pretrained(tmp_path / "batch")
    with pytest.raises(UserError, match=r"another kind, 'jumprelu', and TopKSAE is 'topk': load it with ard.sae.load_"):
        TopKSAE.from_pretrained(tmp_path / "jump")
    with pytest.raises(
        UserError, match=r"another kind, 'topk', and JumpReLUSAE is 'jumprelu': load it with ard.sae.load_"
    ):
        JumpReLUSAE.from_pretrained(tmp_path / "top")
    kinds = {name: type(load_dictionary(tmp_path / name)) for name in ("jump", "top", "batch")}
    assert kinds == {"jump": JumpReLUSAE, "top": TopKSAE, "batch": TopKSAE}


def test_thresholds_that_differ_make_a_jumprelu_of_one_that_says_k(tmp_path):
    sae().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text(encoding="utf-8"))
    (tmp_path / "cfg.json").write_text(json.dumps({**config, "k": 4}), encoding="utf-8")
    assert read(tmp_path).architecture == "jumprelu"
    tensors = load_file(tmp_path / "sae_weights.safetensors")
    tensors["threshold"].fill_(0.5)
    save_file(tensors, tmp_path / "sae_weights.safetensors")
    assert (read(tmp_path).architecture, read(tmp_path).k, read(tmp_path).threshold) == ("topk", 4, 0.5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"threshold": torch.zeros(1)}, r"threshold is \[1\], its configuration says \[24\]"),
        ({"W_skip": torch.zeros(2, 2)}, "'W_skip' is a tensor that no"),
    ],
)
def test_tensors_that_are_not_a_jumprelus_are_refused(tmp_path, change, said):
    sae().save_pretrained(tmp_path)
    save_file({**random_tensors(), **change}, tmp_path / "sae_weights.safetensors")
    with pytest.raises(UserError, match=said):
        read(tmp_path)


def test_thresholds_of_integers_or_eight_bits_are_refused_with_a_k_too(tmp_path):
    sae().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text(encoding="utf-8"))
    (tmp_path / "cfg.json").write_text(json.dumps({**config, "k": 3}), encoding="utf-8")
    tensors = random_tensors()
    save_file(
        {**tensors, "threshold": tensors["threshold"].to(torch.float8_e4m3fn)}, tmp_path / "sae_weights.safetensors"
    )
    with pytest.raises(UserError, match="threshold is float8_e4m3fn"):
        read(tmp_path)


@pytest.mark.parametrize("to", ["sparsify", "dictionary_learning"])
def test_a_format_that_cannot_hold_it_is_refused_in_one_line(tmp_path, to, capsys):
    sae().save_pretrained(tmp_path / "sae")
    with pytest.raises(SystemExit, match="2"):
        main(["convert", str(tmp_path / "sae"), str(tmp_path / "new"), "--to", to])
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"ard: a JumpReLU-SAE, with a threshold a feature, is written as 'saelens' only, not as '{to}'"
    assert not (tmp_path / "new").exists()


def test_converted_to_its_own_format_it_is_the_same(tmp_path):
    sae(pre_bias=False).save_pretrained(tmp_path / "sae")
    convert(tmp_path / "sae", tmp_path / "new", "saelens")
    again = load_dictionary(tmp_path / "new")
    assert again.pre_bias is False
    assert all(torch.equal(tensor, sae().state_dict()[name]) for name, tensor in again.state_dict().items())
