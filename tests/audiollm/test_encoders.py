"""Audio encoders: which layers, which moment a token stands for, what padding does, and the real Whisper base."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import AutoModel, ClapAudioModel, ClapModel, HubertModel, WhisperModel

from ard.audiollm import load_audiollm, only_hears
from ard.types import Clip, UserError
from tests.audiollm.families import encoders
from tests.audiollm.families.whisper import whisper

BUILDS = {
    "whisper": whisper,
    **{name: getattr(encoders, name) for name in ("wav2vec2", "hubert", "wavlm_large", "ast", "clap", "clap_audio")},
}
SPEECH = ("wav2vec2", "hubert", "wavlm_large")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of each type."""
    made = {name: tmp_path_factory.mktemp(name) for name in BUILDS}
    for name, folder in made.items():
        BUILDS[name](folder)
    return {name: str(folder) for name, folder in made.items()}


def noise(duration_s, seed=0, rate_hz=16000):
    rng = np.random.default_rng(seed)
    return Clip("noise", rng.standard_normal(round(duration_s * rate_hz)).astype(np.float32) * 0.1, rate_hz, "test")


@pytest.mark.parametrize(
    ("name", "num_layers", "d_in", "path"),
    [
        ("whisper", 2, 16, "encoder.layers"),
        ("wav2vec2", 3, 16, "encoder.layers"),
        ("hubert", 3, 16, "hubert.encoder.layers"),
        ("ast", 3, 16, "layers"),
        ("clap", 3, 16, "audio_model.audio_encoder.layers.1.blocks"),
        ("clap_audio", 3, 16, "audio_encoder.layers.1.blocks"),
    ],
)
def test_the_default_layers_are_the_longest_list_of_the_encoders_own(folders, name, num_layers, d_in, path):
    default, named = load_audiollm(folders[name]), load_audiollm(folders[name], layers_path=path)
    assert (len(default.layers), default.d_in, default.answers) == (num_layers, d_in, False)
    captured = [model.capture([noise(0.7)], [1])[1][0] for model in (default, named)]
    assert torch.equal(*captured)
    assert captured[0].shape[1] == d_in
    assert only_hears(folders[name])


def test_a_stage_of_clap_is_chosen_by_its_path(folders):
    """Each stage halves the picture's sides and doubles the width; two seconds are the whole window."""
    for stage, (tokens_s, d_in, num_layers) in enumerate([(128, 8, 1), (32, 16, 3), (8, 32, 1)]):
        path = f"audio_model.audio_encoder.layers.{stage}.blocks"
        model = load_audiollm(folders["clap"], layers_path=path)
        (x,) = model.capture([noise(2)], [0])[0]
        assert (tuple(x.shape), model.d_in, len(model.layers)) == ((2 * tokens_s, d_in), d_in, num_layers)
        assert model.prompter.timing(2.0, len(x)) == (len(x), pytest.approx(1 / tokens_s))


@pytest.mark.parametrize(
    ("name", "path", "choices"),
    [
        ("whisper", "decoder.layers", "encoder.layers"),
        ("hubert", "feature_extractor.conv_layers", "encoder.layers"),
        ("clap", "text_model.encoder.layer", "audio_model.audio_encoder.layers.0.blocks, audio_model"),
        ("clap", "audio_model.audio_encoder.layers", "audio_model.audio_encoder.layers.0.blocks, audio_model"),
    ],
)
def test_other_layers_are_refused_with_those_there_are(folders, name, path, choices):
    with pytest.raises(UserError, match=rf"at '{path}' are not its encoder's: give {choices}"):
        load_audiollm(folders[name], layers_path=path)
    with pytest.raises(UserError, match=r"has no layers at 'nowhere': give layers_path, one of "):
        load_audiollm(folders[name], layers_path="nowhere")


@pytest.mark.parametrize(
    ("name", "reach_s"), [("whisper", 0.03), ("ast", 0.16), ("clap", 0.06)], ids=["whisper", "ast", "clap"]
)
def test_a_token_stands_for_its_moment(folders, name, reach_s):
    """A sound that changes from one moment on changes what the first layer is given from there on, and only there."""
    path = "audio_model.audio_encoder.layers.0.blocks" if name == "clap" else None
    model, change_s = load_audiollm(folders[name], layers_path=path), 0.6
    rate_hz = model.prompter.sample_rate_hz
    before, other = noise(1.1, 0, rate_hz), noise(1.1, 1, rate_hz)
    joined = np.concatenate([before.waveform[: int(change_s * rate_hz)], other.waveform[int(change_s * rate_hz) :]])
    given = []
    hook = model.layers[0].register_forward_pre_hook(lambda _module, args: given.append(args[0]))
    for waveform in (before.waveform, joined):
        model.capture([Clip("c", waveform, rate_hz, "test")], [0])
    hook.remove()
    moments = model.prompter.encoder.moments(model.prompter([before]).features)
    changed = (given[0] != given[1]).any(dim=-1)[0][moments.argsort(stable=True)][int((moments < 0).sum()) :]
    num_tokens = len(model.capture([before], [0])[0][0])
    times_s = torch.arange(num_tokens) * model.prompter.timing(1.1, num_tokens)[1]
    assert not changed[:num_tokens][times_s < change_s - reach_s].any()
    assert changed[:num_tokens][times_s > change_s + reach_s].all()


@pytest.mark.parametrize("name", SPEECH)
def test_what_padding_would_do_is_known_by_the_norm(folders, name):
    """With a norm over the whole clip padding changes every frame: clips are alone, as transformers has them."""
    model, (long, short) = load_audiollm(folders[name]), (noise(1.2), noise(0.5, 1))
    batch = model.prompter([long, short])
    masked = name == "wavlm_large"
    assert ("attention_mask" in batch.features, model.prompter.encoder.alone) == (masked, not masked)
    together = model.capture(batch, [1])[1][1]
    features = model.prompter([short]).features["input_values"]
    network = AutoModel.from_pretrained(folders[name])
    with torch.no_grad():
        alone = network(features, output_hidden_states=True).hidden_states[2][0]
        padded = network(batch.features["input_values"], output_hidden_states=True).hidden_states[2][1, : len(alone)]
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-4)
    assert (padded - alone).abs().max() > 1e-2
    assert features.mean().abs() < 1e-5  # normalised over the clip itself
    assert features.std() == pytest.approx(1, abs=1e-3)


def test_a_batch_norm_before_the_positions_also_reads_padding(tmp_path):
    encoders._of_samples(HubertModel, encoders.HubertConfig, tmp_path, **encoders.MASKED, conv_pos_batch_norm=True)
    assert load_audiollm(str(tmp_path)).prompter.encoder.alone


def shortened_whisper(folder, num_frames):
    """A Whisper whose window is as long as a clip, with the first positions of another."""
    network = WhisperModel.from_pretrained(folder)
    weights = network.encoder.state_dict()
    weights["embed_positions.weight"] = weights["embed_positions.weight"][:num_frames]
    network.config.max_source_positions = num_frames
    encoder = type(network.encoder)(network.config).eval()
    encoder.load_state_dict(weights)
    return encoder


def test_whisper_without_padding_is_a_whisper_with_a_shorter_window(folders):
    model, whole = load_audiollm(folders["whisper"], window="clip"), load_audiollm(folders["whisper"])
    clips = [noise(0.7), noise(1.301, 1), noise(2.0, 2)]
    captured, filled = model.capture(clips, [0, 1]), whole.capture(clips, [1])[1]
    for place, (clip, num_frames) in enumerate(zip(clips, (35, 66, 100), strict=True)):
        features = whole.prompter([clip]).features["input_features"][..., : 2 * num_frames]
        with torch.inference_mode():
            states = shortened_whisper(folders["whisper"], num_frames)(features, output_hidden_states=True)
        torch.testing.assert_close(captured[0][place], states.hidden_states[1][0], rtol=0, atol=1e-5)
        assert len(captured[1][place]) == num_frames
    assert (captured[1][0] - filled[0]).abs().max() > 1e-2  # padding is part of what Whisper computes
    torch.testing.assert_close(captured[1][2], filled[2])  # of which a clip of the whole window has none
    assert model.model.config.max_source_positions == 100  # as it was


def test_ast_without_padding_has_the_positions_of_its_columns(folders):
    model, whole = load_audiollm(folders["ast"], window="clip"), load_audiollm(folders["ast"])
    clip, given = noise(0.55), []
    for one in (model, whole):
        hook = one.layers[0].register_forward_pre_hook(lambda _module, args: given.append(args[0][0]))
        one.capture([clip], [0])
        hook.remove()
    patches = given[1][2:].unflatten(0, (3, 12))[:, :6]  # three bands, of twelve columns the six with sound
    torch.testing.assert_close(given[0], torch.cat([given[1][:2], patches.flatten(0, 1)]), rtol=0, atol=1e-5)
    assert model.model.embeddings.position_embeddings.shape == (1, 38, 16)  # as it was


@pytest.mark.parametrize("name", ["wav2vec2", "clap"])
def test_where_no_padding_can_be_left_out_that_is_said(folders, tiny_audiollm, name):
    with pytest.raises(
        UserError, match=rf"window 'clip' is only for encoders .* \(Whisper, AST\), and this is a {name}"
    ):
        load_audiollm(folders[name], window="clip")
    with pytest.raises(UserError, match="window 'clip' is only for encoders, and a qwen2_audio answers"):
        load_audiollm(tiny_audiollm, window="clip")
    with pytest.raises(UserError, match="window 'whole' is unknown: give 'clip', or leave it out"):
        load_audiollm(folders["whisper"], window="whole")


@pytest.mark.parametrize("name", BUILDS)
def test_half_precision_is_computed_in_float32_and_short_clips_have_a_token(folders, name, tmp_path):
    network = ClapAudioModel if name == "clap_audio" else AutoModel
    network.from_pretrained(folders[name]).half().save_pretrained(tmp_path)
    shutil.copy(f"{folders[name]}/preprocessor_config.json", tmp_path)
    model, whole = load_audiollm(str(tmp_path)), load_audiollm(folders[name])
    assert {x.dtype for x in model.model.parameters()} == {torch.float32}
    (half, tiny), (full, _) = (one.capture([noise(0.8), noise(0.005)], [0])[0] for one in (model, whole))
    assert half.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(half, full).min() > 0.99
    assert 1 <= len(tiny) <= 4
    assert tiny.isfinite().all()


def test_the_audio_tower_alone_is_that_of_the_whole_clap(folders, tmp_path):
    ClapModel.from_pretrained(folders["clap"]).audio_model.save_pretrained(tmp_path)
    shutil.copy(f"{folders['clap']}/preprocessor_config.json", tmp_path)
    alone, whole = (
        load_audiollm(str(folder)).capture([noise(1.3)], [2])[2][0] for folder in (tmp_path, folders["clap"])
    )
    assert torch.equal(alone, whole)


def test_weights_for_training_alone_may_be_missing(folders, tmp_path):
    network = HubertModel.from_pretrained(folders["hubert"])
    weights = {name: x for name, x in network.state_dict().items() if name != "masked_spec_embed"}
    network.save_pretrained(tmp_path, state_dict=weights)
    shutil.copy(f"{folders['hubert']}/preprocessor_config.json", tmp_path)
    both = [load_audiollm(str(folder)).capture([noise(0.5)], [1])[1][0] for folder in (tmp_path, folders["hubert"])]
    assert torch.equal(*both)


def test_what_only_hears_is_told_from_files(folders, tiny_audiollm, tmp_path):
    assert [only_hears(name) for name in (tiny_audiollm, "embedded", str(tmp_path), "nobody/nothing")] == [False] * 4


@pytest.fixture(scope="module")
def real():
    """The folder of the real Whisper base, and real recordings."""
    folder = os.environ.get("ARD_REAL")
    if not folder:
        pytest.skip("ARD_REAL is not set: it names a folder with the real encoder of Whisper base")
    return Path(folder)


def real_clips(real, num_clips):
    clips = []
    for path in sorted((real / "clips" / "FSD50K.eval_audio").glob("*.wav"))[:num_clips]:
        waveform, rate_hz = soundfile.read(path, dtype="float32")
        clips.append(Clip(path.stem, waveform if waveform.ndim == 1 else waveform.mean(axis=1), rate_hz, "real"))
    return clips


def test_the_real_whisper_is_that_of_transformers_in_float32(real):
    folder = str(real / "whisper-base-encoder")
    model, clips = load_audiollm(folder), real_clips(real, 2)
    assert (len(model.layers), model.d_in, model.prompter.window_s, model.prompter.sample_rate_hz) == (
        6,
        512,
        30,
        16000,
    )
    assert model.model.dtype == torch.float32
    captured = model.capture(clips, [3])[3]
    network = AutoModel.from_pretrained(folder, dtype=torch.float32).encoder
    for clip, x in zip(clips, captured, strict=True):
        features = model.prompter.processor(
            model.prompter._waveform(clip), sampling_rate=16000, return_tensors="pt"
        ).input_features
        with torch.inference_mode():
            expected = network(features, output_hidden_states=True).hidden_states[4][0]
        torch.testing.assert_close(x, expected[: len(x)], rtol=1e-4, atol=1e-3)
        assert len(x) == -(-len(model.prompter._waveform(clip)) // 320)


def test_padding_is_part_of_what_the_real_whisper_computes(real):
    folder, clips = str(real / "whisper-base-encoder"), real_clips(real, 4)
    whole, cut = (load_audiollm(folder, window=window).capture(clips, [3])[3] for window in (None, "clip"))
    assert [len(x) for x in whole] == [len(x) for x in cut]
    alike = [float(torch.nn.functional.cosine_similarity(x, y).mean()) for x, y in zip(whole, cut, strict=True)]
    assert min(alike) > 0.5
    assert max(alike) < 0.99
