import copy

import pytest
import torch

from ard.audiollm import load_audiollm
from ard.sae import JumpReLUSAE, PolyFeatures, TopKSAE, functional
from ard.steering import ClassMatch, steer
from ard.types import UserError

LAYER = 1


def run(model, clips, coder, clamp, **options):
    """The output of the steered layer and that of the last one, at the positions that are not padding."""
    batch = model.prompter(clips)
    seen = {}
    with steer(model, coder, LAYER, clamp, **options):
        read = [
            model.layers[i].register_forward_hook(lambda _m, _a, out, i=i: seen.__setitem__(i, out))
            for i in (LAYER, len(model.layers) - 1)
        ]
        with torch.inference_mode():
            model.model(**batch.features, use_cache=False)
        for handle in read:
            handle.remove()
    return seen[LAYER], seen[len(model.layers) - 1], batch


def plain(model, clips):
    batch = model.prompter(clips)
    with torch.inference_mode():
        return model.model(**batch.features, output_hidden_states=True, use_cache=False).hidden_states[LAYER + 1]


def test_the_papers_procedure_replaces_every_token_by_the_clamped_reconstruction(model, clips, sae):
    x = plain(model, clips)
    steered, _, batch = run(model, clips, sae, {5: 30.0})
    with torch.no_grad():
        expected = sae.decode(sae.encode(x[batch.valid], {5: 30.0}))
    torch.testing.assert_close(steered[batch.valid], expected)
    assert torch.equal(steered[~batch.valid], x[~batch.valid])


def test_without_a_clamp_it_is_the_plain_reconstruction(model, clips, sae):
    x = plain(model, clips)
    steered, _, batch = run(model, clips, sae, {})
    with torch.no_grad():
        torch.testing.assert_close(steered[batch.valid], sae(x[batch.valid]))


def reference(sae, x, feature, value):
    """The hook of the paper's reference [9] at prefill, on the dense z of one clip: ReLU, set, TopK, decode."""
    latents = (x @ sae.W_enc + sae.b_enc).relu()
    latents[:, feature] = value
    values, indices = latents.topk(sae.k, dim=-1)
    return torch.zeros_like(latents).scatter(1, indices, values) @ sae.W_dec + sae.b_dec


@pytest.mark.parametrize("value", [0.0, 0.001, 0.02, 30.0])
def test_the_default_is_the_hook_of_reference_9_also_where_the_value_is_below_the_kth_largest(model, clips, sae, value):
    x = plain(model, clips)
    steered, _, batch = run(model, clips, sae, {5: value})
    with torch.no_grad():
        expected = reference(sae, x[batch.valid], 5, value)
    torch.testing.assert_close(steered[batch.valid], expected)


@pytest.mark.parametrize("positions", ["all", "audio", "last"])
@pytest.mark.parametrize("phase", ["prefill", "every"])
def test_an_empty_clamp_with_the_error_kept_changes_nothing_to_the_last_bit(model, clips, sae, positions, phase):
    steered, last, _ = run(model, clips, sae, {}, keep_error=True, positions=positions, phase=phase)
    assert torch.equal(steered, plain(model, clips))
    batch = model.prompter(clips)
    with torch.inference_mode():
        states = model.model.model(**batch.features, output_hidden_states=True, use_cache=False)
    assert torch.equal(model.model.model.language_model.norm(last), states.last_hidden_state)


def test_features_are_set_at_the_last_token_of_the_prompt_alone(model, clips, sae):
    x = plain(model, clips)
    steered, _, batch = run(model, clips, sae, {5: 30.0}, positions="last", keep_error=True)
    assert torch.equal((steered != x).any(dim=-1).sum(dim=1), torch.tensor([1, 1, 1]))
    assert (steered[:, -1] != x[:, -1]).any(dim=-1).all()  # prompts are padded on the left
    rebuilt, _, _ = run(model, clips, sae, {5: 30.0}, positions="last")
    with torch.no_grad():
        torch.testing.assert_close(rebuilt[:, -1], reference(sae, x[:, -1], 5, 30.0))
        rest = batch.valid.clone()
        rest[:, -1] = False
        torch.testing.assert_close(rebuilt[rest], sae(x[rest]))


def test_values_may_be_multiples_of_each_features_maximum(model, clips, sae):
    maxima = torch.linspace(0.5, 4, 128)
    absolute, _, _ = run(model, clips, sae, {5: 3 * float(maxima[5]), 90: 2 * float(maxima[90])})
    multiples, _, _ = run(model, clips, sae, {5: 3.0, 90: 2.0}, maxima=maxima)
    assert torch.equal(absolute, multiples)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions_of_the_sae_and_the_model(tiny_audiollm, clips, sae, dtype):
    half = load_audiollm(tiny_audiollm, dtype="bfloat16")
    coder = copy.deepcopy(sae).to(dtype)
    unsteered = half.generate(clips, max_new_tokens=5)
    with steer(half, coder, LAYER, {}, keep_error=True):
        assert half.generate(clips, max_new_tokens=5) == unsteered
    with steer(half, coder, LAYER, {5: 30.0}), steer(half, coder, 2, {5: 30.0}, keep_error=True):
        assert half.generate(clips, max_new_tokens=5) != unsteered


def test_keeping_the_error_adds_the_change_alone(model, clips, sae):
    x = plain(model, clips)
    steered, _, batch = run(model, clips, sae, {5: 30.0}, keep_error=True, positions="audio")
    heard = x[batch.audio]
    with torch.no_grad():
        shift = sae.decode(sae.encode(heard, {5: 30.0})) - sae(heard)
    torch.testing.assert_close(steered[batch.audio], heard + shift)
    assert torch.equal(steered[~batch.audio], x[~batch.audio])


def test_raw_coordinates_are_set_and_all_others_left(model, clips):
    x = plain(model, clips)
    steered, _, batch = run(model, clips, PolyFeatures(32), {3: 7.0})
    assert (steered[batch.valid][:, 3] == 7).all()
    others = [i for i in range(32) if i != 3]
    assert torch.equal(steered[batch.valid][:, others], x[batch.valid][:, others])


@pytest.mark.parametrize("value", [0.0, 0.01, 30.0])
def test_a_jumprelus_feature_has_the_value_that_is_set_after_its_threshold(model, clips, value):
    coder = JumpReLUSAE(32, 128, pre_bias=True, generator=torch.Generator().manual_seed(0))
    torch.nn.init.normal_(coder.b_dec, generator=torch.Generator().manual_seed(1))
    coder.threshold.data.uniform_(0.0, 1.0, generator=torch.Generator().manual_seed(2))
    coder.threshold.data[5] = 2.0
    x = plain(model, clips)
    steered, _, batch = run(model, clips, coder, {5: value})
    with torch.no_grad():
        pre_activations = (x[batch.valid] - coder.b_dec) @ coder.W_enc + coder.b_enc
        latents = pre_activations * (pre_activations > coder.threshold)
        latents[:, 5] = value
        expected = latents @ coder.W_dec + coder.b_dec
    torch.testing.assert_close(steered[batch.valid], expected)


STEERINGS = [{}, {"keep_error": True}, {"positions": "audio"}, {"positions": "last"}, {"phase": "every"}]
STEERINGS += [{"phase": "every", "positions": "last", "keep_error": True}]
DECODINGS = [{}, {"num_beams": 3}, {"num_beams": 3, "num_answers": 2}, {"temperature": 1.0, "num_answers": 2}]
PROMPTS = ["a dog", "rain", "happy or sad"]


@pytest.mark.slow
@pytest.mark.parametrize("options", STEERINGS)
@pytest.mark.parametrize("decoding", DECODINGS)
def test_batches_and_caches_answer_like_single_clips_without_a_cache(model, clips, sae, options, decoding, monkeypatch):
    def answers(clips, prompts):
        return model.generate(clips, prompts, max_new_tokens=5, **decoding)

    with steer(model, sae, LAYER, {5: 30.0, 9: 10.0}, **options):
        together = answers(clips, PROMPTS)
        single = [answer for clip, prompt in zip(clips, PROMPTS, strict=True) for answer in answers([clip], [prompt])]
        monkeypatch.setattr(model.model.generation_config, "use_cache", False)
        uncached = answers(clips, PROMPTS)
    assert len(together) == len(clips) * decoding.get("num_answers", 1)
    assert together == uncached
    if "temperature" not in decoding:  # a batch draws from one generator
        assert together == single
    monkeypatch.undo()
    assert together != answers(clips, PROMPTS)


def test_draws_follow_from_the_seed_alone(model, clips, sae):
    with steer(model, sae, LAYER, {5: 30.0}):
        state = torch.get_rng_state()
        first, again, other = (
            model.generate(clips, PROMPTS, max_new_tokens=5, temperature=2.0, seed=seed) for seed in (3, 3, 4)
        )
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), state)


def test_more_answers_than_there_are_is_refused(model, clips):
    with pytest.raises(UserError, match="3 answers need at least as many beams, but num_beams is 2: give more"):
        model.generate(clips, PROMPTS, num_beams=2, num_answers=3)


def clamped_tokens(model, sae, clips, monkeypatch, **options):
    """How many tokens are clamped in each pass in which any is."""
    counts = []
    encode = TopKSAE.encode_both
    with monkeypatch.context() as patch:
        patch.setattr(TopKSAE, "encode_both", lambda self, x, clamp: counts.append(len(x)) or encode(self, x, clamp))
        with steer(model, sae, LAYER, {5: 30.0}, **options):
            model.generate(clips, ["rain"] * len(clips), max_new_tokens=3)
    return counts


@pytest.mark.parametrize("keep_error", [True, False])
def test_what_is_clamped_in_the_prompt_and_at_every_step(model, clips, sae, keep_error, monkeypatch):
    batch = model.prompter(clips, ["rain"] * 3)
    prompt = {"all": int(batch.valid.sum()), "audio": int(batch.audio.sum()), "last": 3}
    for positions, num_tokens in prompt.items():
        where = {"positions": positions, "keep_error": keep_error}
        assert clamped_tokens(model, sae, clips, monkeypatch, **where) == [num_tokens]
        assert clamped_tokens(model, sae, clips, monkeypatch, phase="every", **where) == [num_tokens, 3, 3]


def test_every_token_that_is_said_is_rebuilt_and_none_where_the_error_is_kept(model, clips, sae, monkeypatch):
    batch, counts = model.prompter(clips, PROMPTS), []
    decode = TopKSAE.decode
    monkeypatch.setattr(model.model.generation_config, "eos_token_id", None)  # no answer ends early
    monkeypatch.setattr(TopKSAE, "decode", lambda self, codes: counts.append(len(codes.values)) or decode(self, codes))
    for clamp in ({}, {5: 30.0}):
        for options, expected in (({}, [int(batch.valid.sum()), 3, 3]), ({"keep_error": True}, [])):
            counts.clear()
            with steer(model, sae, LAYER, clamp, **options):
                model.generate(batch, max_new_tokens=3)
            assert counts == (expected or [int(batch.valid.sum())] * 2 * bool(clamp))


def test_no_token_is_encoded_twice(model, clips, sae, monkeypatch):
    counts = []
    encode = functional.affine
    monkeypatch.setattr(functional, "affine", lambda x, *weights: counts.append(len(x)) or encode(x, *weights))
    batch = model.prompter(clips, PROMPTS)
    for options, expected in (({}, batch.valid), ({"positions": "audio"}, batch.valid), ({"keep_error": True}, None)):
        counts.clear()
        with steer(model, sae, LAYER, {5: 30.0}, **options):
            model.generate(batch, max_new_tokens=1)
        assert sum(counts) == (batch.valid if expected is None else expected).sum()


def test_several_layers_are_steered_at_once_and_one_layer_twice(model, clips, sae):
    x = plain(model, clips)
    with steer(model, sae, 0, {5: 30.0}), steer(model, PolyFeatures(32), LAYER, {3: 7.0}):
        both = model.generate(clips, PROMPTS, max_new_tokens=5)
        below, _, batch = run(model, clips, PolyFeatures(32), {8: -2.0})
    assert (below[batch.valid][:, 3] == 7).all()
    assert (below[batch.valid][:, 8] == -2).all()
    assert not torch.allclose(below[..., 4], x[..., 4])  # which the SAE below has changed
    with steer(model, PolyFeatures(32), LAYER, {3: 7.0}), steer(model, sae, 0, {5: 30.0}):
        assert model.generate(clips, PROMPTS, max_new_tokens=5) == both


@pytest.mark.parametrize(
    ("layer", "clamp", "said"),
    [
        (4, {5: 1.0}, "layer 4 does not exist in '.*': it has layers 0 to 3"),
        (1, {128: 1.0}, "feature 128 does not exist: this dictionary has features 0 to 127"),
        (1, {-1: 1.0}, "feature -1 does not exist"),
        (1, {5: float("nan")}, "feature 5 cannot be set to nan: give a finite value"),
        (1, {5: float("inf")}, "feature 5 cannot be set to inf"),
        (1, {5: -1.0}, "feature 5 cannot be set to -1.0: an SAE's activations are 0 or more. 0 turns it off"),
        (1, dict.fromkeys(range(9), 1.0), "9 features cannot be set at once: this SAE keeps 8 per token"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(model, sae, layer, clamp, said):
    hooks = all_hooks(model)
    with pytest.raises(UserError, match=said), steer(model, sae, layer, clamp):
        pytest.fail("the block was entered")
    assert all_hooks(model) == hooks


def test_another_width_and_unusable_maxima_are_refused(model, sae):
    with (
        pytest.raises(UserError, match=r"for a width of 16, and '.*' is 32 wide: give an SAE that was trained on"),
        steer(model, TopKSAE(16, 64, k=4), LAYER, {}),
    ):
        pytest.fail("the block was entered")
    maxima = torch.ones(128)
    maxima[[5, 6]] = torch.tensor([0.0, torch.nan])
    for given, clamp, said in (
        (maxima[:100], {5: 1.0}, "100 maxima are given for 128 features"),
        (maxima, {5: 2.0}, "feature 5 has no maximum, since no clip of the probing set makes it active"),
        (maxima, {6: 2.0}, "feature 6 cannot be set to nan"),
    ):
        with pytest.raises(UserError, match=said), steer(model, sae, LAYER, clamp, maxima=given):
            pytest.fail("the block was entered")
    with steer(model, sae, LAYER, {5: 0.0}, maxima=maxima), steer(model, sae, LAYER, dict.fromkeys(range(9), 0.0)):
        pass  # to turn off is always possible, and of as many as one likes


def all_hooks(model):
    return [list(module._forward_hooks) + list(module._forward_pre_hooks) for module in model.model.modules()]


def test_no_hook_is_left_behind_even_after_an_exception(model, clips, sae):
    before = plain(model, clips)
    hooks = all_hooks(model)
    with pytest.raises(RuntimeError, match="inside"), steer(model, sae, LAYER, {5: 30.0}):
        raise RuntimeError("inside")
    assert hooks == all_hooks(model)
    assert torch.equal(plain(model, clips), before)


def test_the_judge_reads_one_class_and_no_part_of_a_word():
    judge = ClassMatch(["male", "female"])
    answers = ["Female", "the speaker is male.", "male or female", "no speaker", ""]
    assert judge(answers) == ["female", "male", None, None, None]


@pytest.mark.parametrize("positions", ["all", "audio", "last"])
def test_a_direction_is_added_where_it_should_be_and_nowhere_else(model, clips, sae, positions):
    x, direction = plain(model, clips), torch.randn(32, generator=torch.Generator().manual_seed(0))
    steered, _, batch = run(model, clips, None, {}, add=direction, positions=positions)
    where = {"all": batch.valid, "audio": batch.audio, "last": torch.zeros_like(batch.valid)}[positions]
    if positions == "last":
        where[:, -1] = True
    torch.testing.assert_close(steered[where], x[where] + direction)
    assert torch.equal(steered[~where], x[~where])
    both, _, _ = run(model, clips, sae, {5: 30.0}, add=direction, positions=positions)
    features, _, _ = run(model, clips, sae, {5: 30.0}, positions=positions)
    torch.testing.assert_close(both[where], features[where] + direction)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"add": torch.ones(31)}, r"the direction has the shape \[31\], and '.*' is 32 wide: give a vector of 32"),
        ({"add": torch.full((32,), torch.nan)}, "the direction has numbers that are not finite: give another"),
        ({"clamp": {5: 1.0}}, r"features \[5\] cannot be set without a dictionary"),
    ],
)
def test_a_direction_that_cannot_be_added_is_refused(model, given, said):
    with pytest.raises(UserError, match=said), steer(model, None, LAYER, **given):
        pytest.fail("the block was entered")
