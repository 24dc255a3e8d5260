import numpy as np
import pytest
import torch

from ard.audiollm import load_audiollm
from ard.sae import PolyFeatures, TopKSAE
from ard.steering import ClassMatch, steer
from ard.types import Clip

LAYER = 1


@pytest.fixture(scope="module")
def model(tiny_audiollm):
    return load_audiollm(tiny_audiollm)


@pytest.fixture(scope="module")
def sae():
    return TopKSAE(32, 128, k=8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def clips():
    rng = np.random.default_rng(0)
    return [Clip(str(n), rng.standard_normal(n).astype(np.float32) * 0.1, 16000, "test") for n in (14400, 6400, 9600)]


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


@pytest.mark.parametrize("positions", ["all", "audio"])
def test_an_empty_clamp_with_the_error_kept_changes_nothing_to_the_last_bit(model, clips, sae, positions):
    steered, last, _ = run(model, clips, sae, {}, keep_error=True, positions=positions)
    assert torch.equal(steered, plain(model, clips))
    batch = model.prompter(clips)
    with torch.inference_mode():
        states = model.model.model(**batch.features, output_hidden_states=True, use_cache=False)
    assert torch.equal(model.model.model.language_model.norm(last), states.last_hidden_state)


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


@pytest.mark.parametrize("options", [{}, {"keep_error": True}, {"positions": "audio"}, {"phase": "every"}])
def test_batches_and_caches_answer_like_single_clips_without_a_cache(model, clips, sae, options):
    prompts = ["a dog", "rain", "happy or sad"]
    with steer(model, sae, LAYER, {5: 30.0, 9: 10.0}, **options):
        together = model.generate(clips, prompts, max_new_tokens=5)
        single = [model.generate([c], [p], max_new_tokens=5)[0] for c, p in zip(clips, prompts, strict=True)]
    assert together == single


def test_clamping_every_step_differs_from_clamping_the_prompt(model, clips, sae, monkeypatch):
    calls = []
    encode = TopKSAE.encode
    monkeypatch.setattr(TopKSAE, "encode", lambda self, x, clamp: calls.append(bool(clamp)) or encode(self, x, clamp))
    for phase, clamped_steps in (("prefill", 1), ("every", 3)):
        calls.clear()
        with steer(model, sae, LAYER, {5: 30.0}, phase=phase):
            model.generate(clips[:1], ["rain"], max_new_tokens=3)
        assert sum(calls) == clamped_steps


def test_no_hook_is_left_behind_even_after_an_exception(model, clips, sae):
    before = plain(model, clips)
    hooks = [list(module._forward_hooks) + list(module._forward_pre_hooks) for module in model.model.modules()]
    with pytest.raises(RuntimeError, match="inside"), steer(model, sae, LAYER, {5: 30.0}):
        raise RuntimeError("inside")
    assert hooks == [list(module._forward_hooks) + list(module._forward_pre_hooks) for module in model.model.modules()]
    assert torch.equal(plain(model, clips), before)


def test_the_judge_reads_one_class_and_no_part_of_a_word():
    judge = ClassMatch(["male", "female"])
    answers = ["Female", "the speaker is male.", "male or female", "no speaker", ""]
    assert judge(answers) == ["female", "male", None, None, None]
