"""Every family of models by the same properties, of which `experiments.families` makes a table for the docs."""

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from ard.audiollm import load_audiollm
from ard.sae import TopKSAE
from ard.steering import steer
from ard.types import Clip, UserError
from tests.audiollm.families import encoders, flamingo, gemma, glm, granite, phi, qwen, voxtral, whisper


class Family(NamedTuple):
    """A row of the table: what writes the tiny model, its window, how many tokens three clips have, which layers."""

    build: Callable[[Path], None]
    window_s: float
    tokens: list[int]
    layers_path: str | None = None
    needs: str = "transformers"
    rate_hz: int = 16000


FAMILIES = {
    "Qwen2-Audio, SeaLLMs-Audio": Family(qwen.qwen2_audio, 2, [40, 26, 11]),
    "Qwen2.5-Omni": Family(qwen.qwen2_5_omni, 2, [40, 26, 11]),
    "Qwen3-Omni": Family(qwen.qwen3_omni_moe, 2400, [21, 14, 6]),
    "Voxtral": Family(voxtral.voxtral, 2400, [375, 375, 375], needs="mistral_common"),
    "Audio Flamingo 3": Family(flamingo.audio_flamingo3, 6, [40, 26, 11]),
    "Music Flamingo": Family(flamingo.music_flamingo, 6, [40, 26, 11]),
    "Granite Speech": Family(granite.granite_speech, 13000, [18, 12, 6], needs="torchaudio"),
    "Phi-4-multimodal": Family(phi.phi4_multimodal, 1800, [20, 13, 6], needs="torchvision"),
    "Gemma 3n": Family(gemma.gemma3n, 30, [188, 188, 188], needs="timm"),
    "Qwen3-ASR": Family(qwen.qwen3_asr, 1200, [21, 14, 7]),
    "GLM-ASR": Family(glm.glm_asr, 655, [20, 13, 5]),
    "Qwen2-Audio's encoder": Family(qwen.qwen2_audio, 2, [81, 53, 23], "audio_tower.layers"),
    "Whisper's encoder": Family(whisper.whisper, 2, [81, 53, 23]),
    "wav2vec 2.0, base": Family(encoders.wav2vec2, 30, [80, 52, 21]),
    "wav2vec 2.0, large": Family(encoders.wav2vec2_large, 30, [80, 52, 21]),
    "HuBERT, base": Family(encoders.hubert, 30, [80, 52, 21]),
    "HuBERT, large": Family(encoders.hubert_large, 30, [80, 52, 21]),
    "WavLM, base": Family(encoders.wavlm, 30, [80, 52, 21]),
    "WavLM, large": Family(encoders.wavlm_large, 30, [80, 52, 21]),
    "AST": Family(encoders.ast, 1.28, [36, 33, 15]),
    "CLAP's audio tower": Family(encoders.clap, 2, [52, 34, 16], rate_hz=48000),
}
AT_TOKENS = {"input_ids": 0, "attention_mask": 1, "token_type_ids": 0}  # what a model's input has at tokens of text
PROMPTS = ["a dog", "a man speaking, happy or sad", "rain and rain"]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def model(family, tmp_path_factory):
    pytest.importorskip(FAMILIES[family].needs, exc_type=ImportError)
    folder = tmp_path_factory.mktemp("family")
    FAMILIES[family].build(folder)
    model = load_audiollm(str(folder), layers_path=FAMILIES[family].layers_path)
    if model.answers:  # with what random weights may say, and trained ones do not
        model.model.generation_config.suppress_tokens = [model.prompter.audio_token_id]
    return model


@pytest.fixture
def speaking(model):
    if not model.answers:
        pytest.skip("not applicable: an encoder answers nothing")
    return model


def sounds(seed: int) -> list[Clip]:
    """Three clips of several lengths and rates; the last is shorter than what some encoders take at a time."""
    rng = np.random.default_rng(seed)
    lengths = [(1.6124, 16000), (1.0517, 8000), (0.4417, 44100)]
    return [Clip(str(s), rng.standard_normal(int(s * hz)).astype(np.float32) * 0.1, hz, "test") for s, hz in lengths]


@pytest.fixture
def batch(model):
    return model.prompter(sounds(0), PROMPTS)


def run(model, batch, **options):
    with torch.inference_mode():
        return model.model(**batch.features, **options)[0]  # logits, or what an encoder gives


def stack_of(model):
    """What runs the layers that are looked into."""
    return next(module for module in model.model.modules() if getattr(module, "layers", None) is model.layers)


def given_to(module, model, batch):
    """The arguments of a module when the model reads a batch."""
    given = []
    hook = module.register_forward_pre_hook(lambda _module, args, named: given.append((args, named)), with_kwargs=True)
    run(model, batch)
    hook.remove()
    return given[0]


def active(model, hidden):
    """Of Gemma 3n's streams the one that its blocks compute."""
    return hidden[model.model.config.text_config.altup_active_idx] if hidden.dim() == 4 else hidden


def in_time(family, hidden):
    """The positions of an encoder for one clip in order of time, and of frequency within a moment."""
    if family == "AST":
        return hidden[2:].unflatten(0, (3, 12)).transpose(0, 1).flatten(0, 1)  # rows of one band each
    if family == "CLAP's audio tower":
        return hidden.unflatten(0, (4, 2, 8)).transpose(1, 2).flatten(0, 2)  # four pieces, one below the other
    return hidden


def check_encoder(family, model):
    """The captured layers of each clip alone are transformers' hidden states; of CLAP these are the ends of stages."""
    layers = list(range(len(model.layers)))
    clap = {"output_hidden_states_before_downsampling": True} if "CLAP" in family else {}
    for clip, num_tokens in zip(sounds(0), FAMILIES[family].tokens, strict=True):
        one = model.prompter([clip])
        with torch.inference_mode():
            states = model.model(**one.features, output_hidden_states=True, **clap).hidden_states
        captured = model.capture(one, layers)
        if clap:
            expected = {layers[-1]: states[2][0].flatten(1).T}
        else:
            expected = {layer: states[layer + 1][0] for layer in layers[:-1]}
        for layer, hidden in expected.items():
            expected_tokens = in_time(family, hidden)[:num_tokens]
            torch.testing.assert_close(captured[layer][0], expected_tokens, rtol=0, atol=1e-5)
        assert [tuple(captured[layer][0].shape) for layer in layers] == [(num_tokens, model.d_in)] * len(layers)


def test_capture(family, model, batch):
    """What is captured are transformers' own hidden states at the same depth, the last one before the final norm."""
    if not model.answers:
        check_encoder(family, model)
        return
    stack = stack_of(model)
    args, named = given_to(stack, model, batch)
    with torch.inference_mode():
        states = stack(*args, **{**named, "output_hidden_states": True}).hidden_states
    layers = list(range(len(model.layers)))
    captured = model.capture(batch, layers)
    audio = model.positions(batch.features).audio
    for layer in layers[:-1]:
        for x, hidden, heard in zip(captured[layer], active(model, states[layer + 1]), audio, strict=True):
            torch.testing.assert_close(x, hidden[heard], rtol=0, atol=1e-5)  # the encoder computes needed frames only
    assert [tuple(x.shape) for x in captured[layers[-1]]] == [(n, model.d_in) for n in audio.sum(dim=1)]


def test_mask(family, model, batch):
    """The mask marks where sound goes, and nothing else: another sound changes the input of layer 0 there only."""
    at = model.positions(batch.features)
    assert at.audio.sum(dim=1).tolist() == FAMILIES[family].tokens
    assert not (at.audio & ~at.valid).any()
    if "encoder" in family or not model.answers:  # whose first layers let sound reach a little further
        return
    assert torch.equal(at.audio, batch.features["input_ids"] == model.prompter.audio_token_id)
    before, after = (
        active(model, given_to(model.layers[0], model, model.prompter(sounds(seed), PROMPTS))[0][0]) for seed in (0, 1)
    )
    changed = (before != after).any(dim=-1)
    if family == "Gemma 3n":  # which fills 188 placeholders always, after the clip's end with one and the same
        assert changed.sum(dim=1).tolist() == [11, 7, 3]
        assert not (changed & ~at.audio).any()
    else:
        assert torch.equal(changed, at.audio)


def test_tokens(family, model, batch):
    """Text is all that is neither padding nor sound, and with it, tokens are in the order of the prompt."""
    if not model.answers or "encoder" in family:
        with pytest.raises(UserError, match=r"tokens 'text' needs layers that read text, and those of .* an audio"):
            model.capture(batch, [0], "text")
        return
    at, (audio, text, both) = (
        model.positions(batch.features),
        [model.capture(batch, [1], tokens)[1] for tokens in ("audio", "text", "all")],
    )
    assert [len(x) for x in text] == (at.valid & ~at.audio).sum(dim=1).tolist()
    for clip, x in enumerate(both):
        is_audio = at.audio[clip][at.valid[clip]]
        assert torch.equal(x[is_audio], audio[clip])
        assert torch.equal(x[~is_audio], text[clip])
    ids = batch.features["input_ids"][0][at.valid[0] & ~at.audio[0]]
    assert PROMPTS[0] in model.prompter.processor.tokenizer.decode(ids)


def test_batch(model, batch):
    """A left-padded batch equals its clips one by one."""
    layers = list(range(len(model.layers)))
    together = model.capture(batch, layers)
    for index, clip in enumerate(sounds(0)):
        alone = model.capture(model.prompter([clip], [PROMPTS[index]]), layers)
        for layer in layers:
            torch.testing.assert_close(together[layer][index], alone[layer][0], rtol=1e-5, atol=1e-4)


def answers(model, monkeypatch):
    """The answers to three clips: of a batch, one by one, and of a batch without a cache."""
    clips = sounds(0)
    together = model.generate(clips, PROMPTS, max_new_tokens=5)
    alone = [model.generate([clip], [prompt], max_new_tokens=5)[0] for clip, prompt in zip(clips, PROMPTS, strict=True)]
    with monkeypatch.context() as patch:
        patch.setattr(model.model.generation_config, "use_cache", False)
        uncached = model.generate(clips, PROMPTS, max_new_tokens=5)
    return together, alone, uncached


@pytest.mark.slow
def test_generate(speaking, monkeypatch):
    """Answers are the same in a batch, one by one, and without a cache."""
    together, alone, uncached = answers(speaking, monkeypatch)
    assert together == alone == uncached
    assert any(together)


@pytest.mark.slow
def test_log_likelihood(speaking):
    """Of every token of an answer it is what the network itself says of it, asked token by token about one clip."""
    said = ["a dog barking", "", "rain, happy or sad"]
    given = []
    hook = speaking.model.register_forward_pre_hook(lambda _, args, named: given.append(named), with_kwargs=True)
    found = speaking.log_likelihood(speaking.prompter(sounds(0), PROMPTS), said)
    hook.remove()
    assert {given[0][name].shape for name in AT_TOKENS if name in given[0]} == {given[0]["input_ids"].shape}
    tokenizer = speaking.prompter.processor.tokenizer
    for clip, prompt, answer, log_p in zip(sounds(0), PROMPTS, said, found, strict=True):
        features = speaking.prompter([clip], [prompt]).features
        expected = []
        for token in tokenizer(answer, add_special_tokens=False).input_ids:
            with torch.inference_mode():
                logits = speaking.model(**features).logits[0, -1]
            expected.append(float(logits.log_softmax(dim=-1)[token]))
            behind = {name: x for name, x in {**AT_TOKENS, "input_ids": token}.items() if name in features}
            more = {name: torch.tensor([[value]]) for name, value in behind.items()}
            features = {**features, **{name: torch.cat([features[name], x], dim=1) for name, x in more.items()}}
        assert log_p.tolist() == pytest.approx(expected, abs=1e-4)
    assert [log_p.tolist() for log_p in speaking.log_likelihood(speaking.prompter(sounds(0)), ["", "", ""])] == [[]] * 3


@pytest.mark.slow
def test_next_token(speaking):
    """Of every token, behind the beginning of an answer, it is what the network itself says about that clip alone."""
    begun = ["a dog barking", "", "rain, happy or sad"]
    batch = speaking.prompter(sounds(0), PROMPTS)
    found = speaking.next_token(batch, begun)
    for clip, prompt, beginning, log_p in zip(sounds(0), PROMPTS, begun, found, strict=True):
        features = speaking.prompter([clip], [prompt]).features
        behind = {"input_ids": speaking.tokens([beginning])[0][None]}
        behind |= {
            name: torch.full_like(behind["input_ids"], AT_TOKENS[name]) for name in AT_TOKENS if name != "input_ids"
        }
        behind = {name: torch.cat([features[name], x], dim=1) for name, x in behind.items() if name in features}
        with torch.inference_mode():
            logits = speaking.model(**{**features, **behind}).logits[0, -1]
        torch.testing.assert_close(log_p, logits.log_softmax(dim=-1), rtol=0, atol=1e-4)
    twice = speaking.next_token(batch, begun, times=2)
    torch.testing.assert_close(twice, found.repeat(2, 1), rtol=0, atol=1e-4)
    with speaking.computed_once(1):
        assert torch.equal(speaking.next_token(batch, begun), found)
        assert torch.equal(speaking.next_token(batch, begun), found)
        with speaking.intervene(1, lambda x, at: 2 * x):
            doubled = speaking.next_token(batch, begun, times=2)
        other = speaking.next_token(batch, begun[::-1])
    with speaking.intervene(1, lambda x, at: 2 * x):
        torch.testing.assert_close(doubled, speaking.next_token(batch, begun).repeat(2, 1), rtol=0, atol=1e-4)
    torch.testing.assert_close(other, speaking.next_token(batch, begun[::-1]), rtol=0, atol=1e-4)
    with torch.inference_mode():
        plain = speaking.model(**batch.features).logits[:, -1].log_softmax(dim=-1)
    torch.testing.assert_close(speaking.next_token(batch, [""] * 3), plain, rtol=0, atol=1e-5)


def test_logit_lens(family, model, batch):
    """What the last layer leaves at the prompt's end is, through norm and head, what the model says next."""
    if not model.answers or "encoder" in family:
        assert model.logit_lens(torch.zeros(1, model.d_in)) is None
        return
    normed = []
    hook = stack_of(model).norm.register_forward_pre_hook(lambda _, args: normed.append(args[0][:, -1]))
    logits = run(model, batch)[:, -1]
    hook.remove()
    torch.testing.assert_close(model.logit_lens(normed[-1]), logits.log_softmax(dim=-1), rtol=0, atol=1e-5)


def shift(phase):
    """Return a change of all that is not padding, in the prompt or in every step, by a vector of an odd look."""

    def change(x, at):
        where = at.valid & at.prompt if phase == "prefill" else at.valid
        return x + 3 * where[..., None] * torch.sin(torch.arange(x.shape[-1]))

    return change


@pytest.mark.slow
def test_intervene(model, batch, monkeypatch):
    """An intervention that changes nothing leaves every bit; one that does, acts on its phase, in batches and alone."""
    plain = run(model, batch)
    for change in (lambda x, at: x, lambda x, at: x.clone()):
        with model.intervene(0, change):
            assert torch.equal(run(model, batch), plain)
    with model.intervene(0, shift("prefill")):
        assert not torch.allclose(run(model, batch), plain, atol=0.1)
    assert torch.equal(run(model, batch), plain)
    if not model.answers:
        return
    said = []
    for phase in ("prefill", "every"):
        with model.intervene(0, shift(phase)):
            together, alone, uncached = answers(model, monkeypatch)
        assert together == alone == uncached
        said.append(together)
    assert len({*map(tuple, said), tuple(model.generate(sounds(0), PROMPTS, max_new_tokens=5))}) > 1


@pytest.fixture
def sae(model):
    """An SAE of the model's width, of random weights."""
    return TopKSAE(model.d_in, 4 * model.d_in, k=4, generator=torch.Generator().manual_seed(0))


CLAMP = {3: 40.0, 17: 25.0, 20: 0.0}
STEERINGS = [
    {"positions": positions, "phase": phase, "keep_error": keep_error}
    for positions, phase, keep_error in (
        ("all", "prefill", False),
        ("all", "every", True),
        ("audio", "prefill", True),
        ("audio", "every", False),
        ("last", "prefill", False),
        ("last", "every", True),
    )
]


def steered(model, sae, layer, steering, silently=False):
    """Set features, or add a direction where there is no error to keep; ``silently`` sets nothing and adds zeros."""
    if "keep_error" in steering:
        return steer(model, sae, layer, {} if silently else CLAMP, **steering)
    direction = 3 * torch.randn(model.d_in, generator=torch.Generator().manual_seed(1))
    return steer(model, None, layer, add=direction * (0 if silently else 1), **steering)


ADDITIONS = [{"positions": "audio", "phase": "prefill"}, {"positions": "last", "phase": "every"}]
DECODINGS = [{}, {"num_beams": 3, "num_answers": 2}, {"temperature": 1.0, "num_answers": 2}]


@pytest.mark.slow
def test_no_op(model, sae, batch):
    """Steering with the error kept and nothing set, or by zeros, leaves every bit of the output; a value does not."""
    plain, last = run(model, batch), len(model.layers) - 1
    for steering in [{**steering, "keep_error": True} for steering in STEERINGS] + ADDITIONS:
        for layer in range(len(model.layers)):
            with steered(model, sae, layer, steering, silently=True):
                assert torch.equal(run(model, batch), plain)
        with steered(model, sae, 0, steering, silently=True), steered(model, sae, last, steering, silently=True):
            assert torch.equal(run(model, batch), plain)
        with steered(model, sae, 0, steering):
            assert not torch.allclose(run(model, batch), plain, atol=0.01)


@pytest.mark.slow
def test_steered_batch(model, sae, batch):
    """When steered, a left-padded batch equals its clips one by one, at every layer and in the answers."""
    layers, single = list(range(len(model.layers))), list(zip(sounds(0), PROMPTS, strict=True))
    for steering in STEERINGS + ADDITIONS:
        with steered(model, sae, 0, steering):
            together = model.capture(batch, layers)
            for index, (clip, prompt) in enumerate(single):
                alone = model.capture(model.prompter([clip], [prompt]), layers)
                for layer in layers:
                    torch.testing.assert_close(together[layer][index], alone[layer][0], rtol=1e-5, atol=1e-3)
            if model.answers:
                said = model.generate(sounds(0), PROMPTS, 5)
                assert said == [model.generate([clip], [prompt], 5)[0] for clip, prompt in single]


@pytest.mark.slow
def test_steered_cache(speaking, sae, monkeypatch):
    """When steered, answers without a cache are the same: greedy ones, those of beam search, and drawn ones.

    So are the answers where what comes before the steered layer is computed once.
    """
    unsteered, greedy = speaking.generate(sounds(0), PROMPTS, 5), []
    prompts = speaking.prompter(sounds(0), PROMPTS)
    for steering in STEERINGS + ADDITIONS:
        for decoding in DECODINGS if steering["phase"] == "every" else DECODINGS[:1]:
            with steered(speaking, sae, 0, steering), monkeypatch.context() as patch:
                cached = speaking.generate(sounds(0), PROMPTS, 5, **decoding)
                with speaking.computed_once(0):
                    assert speaking.generate(prompts, None, 5, **decoding) == cached
                    assert speaking.generate(prompts, None, 5, **decoding) == cached
                patch.setattr(speaking.model.generation_config, "use_cache", False)
                assert speaking.generate(sounds(0), PROMPTS, 5, **decoding) == cached
            assert len(cached) == 3 * decoding.get("num_answers", 1)
            greedy += [cached] if not decoding else []
    assert any(said != unsteered for said in greedy)


def test_hooks(model, sae, batch):
    """Steering leaves no hook behind, also after an exception inside the block, or while the model runs."""

    def hooks():
        return [(*module._forward_hooks, *module._forward_pre_hooks) for module in model.model.modules()]

    before, plain = hooks(), run(model, batch)
    with steer(model, sae, 0, CLAMP):
        assert hooks() != before
    assert hooks() == before
    with pytest.raises(RuntimeError, match="inside"), steer(model, sae, 0, CLAMP):
        raise RuntimeError("inside")
    broken = copy.deepcopy(sae)
    broken.b_dec = None
    with pytest.raises(TypeError), steer(model, sae, 1, CLAMP), steer(model, broken, 0, CLAMP):
        run(model, batch)
    assert hooks() == before
    assert torch.equal(run(model, batch), plain)


def test_window(family, model, monkeypatch):
    """What is longer than the window is cut there: the class's or, where it has none, the model card's."""
    assert model.prompter.window_s == FAMILIES[family].window_s
    assert model.prompter.sample_rate_hz == FAMILIES[family].rate_hz
    monkeypatch.setattr(type(model.prompter), "window_s", 1)
    rate_hz = FAMILIES[family].rate_hz
    long = Clip("long", np.random.default_rng(0).standard_normal(2 * rate_hz).astype(np.float32) / 10, rate_hz, "test")
    cut = dataclasses.replace(long, waveform=long.waveform[:rate_hz])
    (heard, expected) = (model.prompter([clip]).features for clip in (long, cut))
    assert all(torch.equal(heard[name], expected[name]) for name in expected)
