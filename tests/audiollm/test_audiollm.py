import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, BatchFeature, DynamicCache, PreTrainedModel, WhisperFeatureExtractor

from ard.audiollm import AudioPrompter, AudioPrompts, load_audiollm, replace_output
from ard.types import Clip, UserError
from tests.audiollm.families.flamingo import audio_flamingo3
from tests.audiollm.families.granite import granite_speech
from tests.audiollm.families.qwen import qwen2_5_omni, qwen2_5_omni_thinker
from tests.audiollm.families.voxtral import voxtral
from tests.audiollm.families.whisper import whisper as write_whisper


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whisper")
    write_whisper(folder)
    return str(folder)


@pytest.fixture(scope="module")
def flamingo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flamingo")
    audio_flamingo3(folder)
    return str(folder)


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


def test_layers_are_found_by_path_with_and_without_the_models_own_prefix(tiny_audiollm, clips):
    decoder = load_audiollm(tiny_audiollm)
    for path in ("language_model.layers", "model.language_model.layers"):
        named = load_audiollm(tiny_audiollm, layers_path=path)
        assert torch.equal(named.capture(clips, [2])[2][0], decoder.capture(clips, [2])[2][0])
    tower = load_audiollm(tiny_audiollm, layers_path="audio_tower.layers")
    assert (tower.d_in, len(tower.layers)) == (16, 1)
    assert tower.generate(clips, max_new_tokens=4) == decoder.generate(clips, max_new_tokens=4)


@pytest.mark.parametrize("path", ["encoder.layers", "model.encoder.layers"])
def test_of_a_whisper_only_the_encoder_is_kept(whisper, path):
    model = load_audiollm(whisper, layers_path=path)
    assert type(model.model).__name__ == "WhisperEncoder"
    assert (model.d_in, len(model.layers), model.prompter.window_s) == (16, 2, 2)


def noise(duration_s):
    rng = np.random.default_rng(1)
    return Clip("noise", rng.standard_normal(round(duration_s * 16000)).astype(np.float32) * 0.1, 16000, "test")


def test_what_is_longer_than_the_window_is_cut_there(model, flamingo):
    windows = {model: 1, load_audiollm(flamingo): 6}
    for heard, window_s in windows.items():
        assert heard.prompter.window_s == window_s
        prompts = heard.prompter([noise(window_s + 1.3)])
        assert torch.equal(
            prompts.features["input_features"], heard.prompter([cut(window_s)]).features["input_features"]
        )


def cut(window_s):
    long = noise(window_s + 1.3)
    return Clip("cut", long.waveform[: window_s * 16000], 16000, "test")


def test_a_clip_of_several_windows_is_heard_whole_in_a_batch_and_in_a_part_of_it(flamingo):
    model = load_audiollm(flamingo)
    batch = model.prompter([noise(0.7), noise(4.9), noise(2.3)], ["rain", "a dog", "a man speaking"])
    assert batch.num_windows == (1, 3, 2)
    assert batch.audio.sum(dim=1).tolist() == [17, 122, 57]
    together = model.capture(batch, [3])[3]
    for clips in (slice(0, 1), slice(1, 3), slice(2, 3)):
        for x, part in zip(together[clips], model.capture(batch.part(clips), [3])[3], strict=True):
            torch.testing.assert_close(x, part, rtol=0, atol=1e-4)
    tower = load_audiollm(flamingo, layers_path="audio_tower.layers")
    assert [len(x) for x in tower.capture([noise(0.7), noise(1.1)], [0])[0]] == [35, 55]
    with pytest.raises(
        UserError, match=r"\(audioflamingo3\) hears one of these clips in several windows: cut them to one"
    ):
        tower.capture(batch, [0])


def test_a_clip_of_one_audio_token_and_one_of_none(model, clips):
    """transformers takes the lone placeholder for one that is still to be expanded; with one token that is the same."""
    short = [noise(0.06), noise(0.02)]
    assert model.prompter(short).audio.sum(dim=1).tolist() == [1, 0]
    alone, none = model.capture(short[:1], [2])[2][0], model.capture(short[1:], [2])[2][0]
    assert (alone.shape, none.shape) == ((1, 32), (0, 32))
    together = model.capture([*clips, *short], [2])[2]
    torch.testing.assert_close(together[3], alone, rtol=0, atol=1e-5)


def test_placeholders_that_were_not_expanded_are_refused(model, clips):
    batch = model.prompter(clips[:1])
    audio = batch.audio[0].nonzero().flatten()
    kept = [i for i in range(batch.audio.shape[1]) if i not in audio[1:].tolist()]
    ids = {name: batch.features[name][:, kept] for name in ("input_ids", "attention_mask")}
    unexpanded = batch._replace(
        features=BatchFeature({**batch.features, **ids}), valid=batch.valid[:, kept], audio=batch.audio[:, kept]
    )
    with pytest.raises(UserError, match=r"cannot identify .*: they return \[1, .*, 32\], and the prompts have \[1, "):
        model.capture(unexpanded, [0])


def phases(model, prompts):
    """For each pass of a generation, at how many positions the prompt and the answer stand."""
    seen = []

    def note(x, at):
        seen.append((int(at.prompt[0].sum()), int((~at.prompt[0]).sum())))
        return x

    with model.intervene(0, note):
        model.generate(prompts, max_new_tokens=3)
    return seen


def test_the_phase_is_known_with_and_without_a_cache_and_for_a_prompt_of_one_token(model, clips, monkeypatch):
    prompts = model.prompter(clips[:1])
    length = prompts.valid.shape[1]
    one = {"input_ids": torch.tensor([[9]]), "attention_mask": torch.tensor([[1]])}
    token = AudioPrompts(BatchFeature(one), torch.ones(1, 1).bool(), torch.zeros(1, 1).bool(), (0,), ({},))
    monkeypatch.setattr(model.model.generation_config, "eos_token_id", None)
    assert phases(model, prompts) == [(length, 0), (0, 1), (0, 1)]
    assert phases(model, token) == [(1, 0), (0, 1), (0, 1)]
    monkeypatch.setattr(model.model.generation_config, "use_cache", False)
    assert phases(model, prompts) == [(length, 0), (length, 1), (length, 2)]
    assert phases(model, token) == [(1, 0), (1, 1), (1, 2)]
    said = {"input_ids": torch.tensor([[model.prompter.audio_token_id]]), "past_key_values": DynamicCache()}
    assert model.positions(said).audio.all()
    said["past_key_values"].update(torch.zeros(1, 2, 5, 8), torch.zeros(1, 2, 5, 8), 0)
    assert not model.positions(said).audio.any()  # the model may say the placeholder: that is no sound


def test_an_intervention_is_told_where_padding_and_audio_are_and_leaves_no_hook(model, clips):
    batch = model.prompter(clips)
    told = []
    before = hooks(model)
    with model.intervene(1, lambda x, at: told.append(at) or x):
        model.capture(batch, [2])
        model.generate(batch, max_new_tokens=2)
    for at in (told[0], told[1]):
        assert torch.equal(at.valid, batch.valid)
        assert torch.equal(at.audio, batch.audio)
    assert told[2].valid.all()
    assert not told[2].audio.any()
    with pytest.raises(RuntimeError, match="inside"), model.intervene(1, lambda x, at: x):
        raise RuntimeError("inside")
    assert hooks(model) == before


def hooks(model):
    return [list(module._forward_hooks) + list(module._forward_pre_hooks) for module in model.model.modules()]


def test_the_weights_may_be_of_half_precision(tiny_audiollm, whisper, flamingo, clips):
    for folder, path in [(tiny_audiollm, None), (whisper, "encoder.layers"), (flamingo, None)]:
        model = load_audiollm(folder, dtype="bfloat16", layers_path=path)
        assert model.capture(clips, [0])[0][0].dtype == torch.bfloat16


def test_on_the_meta_device_there_are_shapes_and_no_weights(tiny_audiollm, whisper, monkeypatch):
    monkeypatch.setattr(PreTrainedModel, "from_pretrained", None)
    for folder, path, shape in [(tiny_audiollm, None, (32, 4)), (whisper, "encoder.layers", (16, 2))]:
        model = load_audiollm(folder, device="meta", layers_path=path)
        assert (model.d_in, len(model.layers), model.device.type) == (*shape, "meta")


@pytest.mark.slow
def test_a_thinker_alone_is_that_of_the_whole_checkpoint(tmp_path, clips):
    for write in (qwen2_5_omni_thinker, qwen2_5_omni):
        (tmp_path / write.__name__).mkdir()
        write(tmp_path / write.__name__)
    alone, whole = (load_audiollm(str(folder)).capture(clips, [3])[3] for folder in sorted(tmp_path.iterdir()))
    assert all(torch.equal(x, y) for x, y in zip(alone, whole, strict=True))
    tower = load_audiollm(str(tmp_path / "qwen2_5_omni"), layers_path="audio_tower.layers")
    with pytest.raises(UserError, match=r"\(qwen2_5_omni_thinker\): they return \[\d+, 16\]"):
        tower.capture(clips, [0])


def test_bad_models_and_layers_are_refused_in_one_line(model, clips, tiny_roberta, tmp_path, monkeypatch):
    for refused in (lambda: model.capture(clips, [4]), model.intervene(-1, lambda x, at: x).__enter__):
        with pytest.raises(UserError, match=r"layer (4|-1) does not exist in .* it has layers 0 to 3"):
            refused()
    with pytest.raises(
        UserError, match=r"\(roberta\) is neither an AudioLLM, .* nor an encoder. .*supported types: .*whisper"
    ):
        load_audiollm(tiny_roberta)
    with pytest.raises(UserError, match="cannot be loaded"):
        load_audiollm(str(tmp_path))
    monkeypatch.setattr(AutoConfig, "from_pretrained", lambda _: __import__("no_such_package"))
    with pytest.raises(UserError, match=r"cannot be loaded \(No module named 'no_such_package'\)"):
        load_audiollm(str(tmp_path))


def test_layers_of_which_nothing_can_be_told_are_refused_by_name(tiny_audiollm, whisper, tmp_path, clips):
    with pytest.raises(
        UserError, match=r"\(qwen2_audio\) has no layers at 'decoder': give layers_path, one of .*audio_tower"
    ):
        load_audiollm(tiny_audiollm, layers_path="decoder")
    with pytest.raises(UserError, match=r"\(whisper\) is an encoder, which cannot answer"):
        load_audiollm(whisper).generate(clips)
    voxtral(tmp_path)
    with pytest.raises(UserError, match=r"\(voxtral\): .* the prompts have no frame mask"):
        load_audiollm(str(tmp_path), layers_path="audio_tower.layers").capture(clips, [0])


def test_a_checkpoint_that_lacks_weights_is_refused(tiny_audiollm, tmp_path):
    shutil.copytree(tiny_audiollm, tmp_path, dirs_exist_ok=True)
    weights = load_file(tmp_path / "model.safetensors")
    lost = next(name for name in weights if "layers.2.mlp" in name)
    del weights[lost]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        UserError, match=r"\(qwen2_audio\) has no weights for 1 of its tensors, such as '.*layers.2.mlp"
    ):
        load_audiollm(str(tmp_path))


def test_a_granite_without_its_adapter_and_its_encoders_layers_are_refused(tmp_path):
    pytest.importorskip("torchaudio", exc_type=ImportError)
    granite_speech(tmp_path)
    with pytest.raises(UserError, match=r"\(granite_speech\) at 'encoder.layers' belong neither to a decoder"):
        load_audiollm(str(tmp_path), layers_path="encoder.layers")
    config = tmp_path / "config.json"
    config.write_text(
        config.read_text(encoding="utf-8").replace('"has_lora_adapter": false', '"has_lora_adapter": true'),
        encoding="utf-8",
    )
    with pytest.raises(UserError, match=r"\(granite_speech\) hears through a LoRA adapter.*pip install peft"):
        load_audiollm(str(tmp_path))


def test_a_type_that_was_not_tested_is_tried_and_if_its_processor_is_another_refused_by_name(model, clips):
    config = SimpleNamespace(model_type="new_audio", audio_token_id=3)
    assert AudioPrompter(model.prompter.processor, config)(clips).valid.all(dim=1).any()
    with pytest.raises(UserError, match=r"models of type 'new_audio' are not supported: .*Supported: .*qwen2_audio"):
        AudioPrompter(WhisperFeatureExtractor(), config)(clips)


def test_the_implementation_of_attention_is_chosen_by_name(tiny_audiollm):
    assert load_audiollm(tiny_audiollm).model.config._attn_implementation == "sdpa"
    assert load_audiollm(tiny_audiollm, attention="eager").model.config._attn_implementation == "eager"
    with pytest.raises(UserError, match="cannot be loaded"):
        load_audiollm(tiny_audiollm, attention="abacus")
