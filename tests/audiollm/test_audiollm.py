import numpy as np
import pytest
import torch

from ard.audiollm import load_audiollm, replace_output
from ard.types import Clip, UserError


@pytest.fixture(scope="module")
def model(tiny_audiollm):
    return load_audiollm(tiny_audiollm)


@pytest.fixture(scope="module")
def clips():
    rng = np.random.default_rng(0)
    return [
        Clip(str(seconds), rng.standard_normal(int(seconds * rate)).astype(np.float32) * 0.1, rate, "test")
        for seconds, rate in [(0.9, 16000), (0.3, 8000), (0.6, 44100)]
    ]


def test_captured_layers_are_the_hidden_states_at_audio_tokens(model, clips):
    prompts = model.prompter(clips)
    with torch.inference_mode():
        hidden = model.model(**prompts.features, output_hidden_states=True).hidden_states
    captured = model.capture(clips, [0, 2])
    assert set(captured) == {0, 2}
    for layer, xs in captured.items():
        for x, states, audio in zip(xs, hidden[layer + 1], prompts.audio, strict=True):
            torch.testing.assert_close(x, states[audio], rtol=0, atol=1e-6)


def test_the_pass_stops_after_the_deepest_wanted_layer(model, clips):
    before = [list(layer._forward_hooks) for layer in model.layers]
    ran = []
    handles = [layer.register_forward_hook(lambda *_, i=i: ran.append(i)) for i, layer in enumerate(model.layers)]
    model.capture(clips, [1])
    for handle in handles:
        handle.remove()
    assert ran == [0, 1]
    assert [list(layer._forward_hooks) for layer in model.layers] == before


def test_the_audio_mask_marks_25_placeholders_a_second(model, clips):
    prompts = model.prompter(clips)
    assert prompts.audio.sum(dim=1).tolist() == [22, 7, 15]  # frames of 10 ms, halved twice
    assert (prompts.features["input_ids"][prompts.audio] == model.prompter.audio_token_id).all()
    assert not (prompts.audio & ~prompts.valid).any()


def test_a_left_padded_batch_equals_its_clips_one_by_one(model, clips):
    together = model.capture(clips, [3])[3]
    for clip, x in zip(clips, together, strict=True):
        torch.testing.assert_close(x, model.capture([clip], [3])[3][0], rtol=0, atol=1e-5)


def test_batched_answers_equal_single_ones(model, clips):
    prompts = ["a dog", "a man speaking", "rain"]
    together = model.generate(clips, prompts, max_new_tokens=6)
    assert together == [model.generate([c], [p], max_new_tokens=6)[0] for c, p in zip(clips, prompts, strict=True)]


def test_a_replaced_output_reaches_the_next_layer_and_the_hook_is_gone_after_an_exception(model, clips):
    def silenced():
        return model.capture(clips, [1])[1][0]

    plain = silenced()
    with replace_output(model.layers[0], torch.zeros_like):
        assert not torch.allclose(silenced(), plain)
    with pytest.raises(RuntimeError, match="inside"), replace_output(model.layers[0], torch.zeros_like):
        raise RuntimeError("inside")
    assert torch.equal(silenced(), plain)


def test_bad_models_and_layers_are_refused_in_one_line(model, clips, tiny_clap, tmp_path):
    with pytest.raises(UserError, match=r"layer 4 does not exist in .* it has layers 0 to 3"):
        model.capture(clips, [4])
    with pytest.raises(UserError, match=r"\(clap\) is no AudioLLM: it has no audio token"):
        load_audiollm(tiny_clap)
    with pytest.raises(UserError, match="cannot be loaded"):
        load_audiollm(str(tmp_path))
