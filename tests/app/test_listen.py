"""What fires in a clip that was dropped is what Python finds in the same file."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ard.app import Asked, Subject, answer, hear, listen
from ard.app.listen import LONGEST_S
from ard.audio import read_clip
from ard.audiollm import load_audiollm
from ard.sae import TopKSAE
from ard.types import Clip, UserError
from tests.audiollm.families.whisper import whisper

from .conftest import made, wav


def test_a_dropped_clip_has_the_features_that_python_finds_in_the_file(subject, tmp_path):
    path = tmp_path / "voice.wav"
    path.write_bytes(wav(made(1)))
    heard = listen(subject, hear(path.read_bytes(), path.name), most=1000)
    on_disk = read_clip(path)
    (x,) = subject.model.capture([on_disk], [3])[3]
    with torch.inference_mode():
        values, indices = subject.coder.encode(x)
    dense = torch.zeros(len(x), 1024).scatter_(1, indices, values)
    assert heard.num_tokens == len(x)
    assert heard.token_s * len(x) == pytest.approx(on_disk.duration_s)
    active = set(dense.any(dim=0).nonzero()[:, 0].tolist())
    assert {fired.feature for fired in heard.concepts} == active & subject.names.keys()
    assert len(heard.concepts) == heard.num_concepts > 0
    assert heard.num_unnamed == len(active - subject.names.keys()) > 0
    for fired in heard.concepts:
        activation = dense[:, fired.feature]
        assert fired.activations == activation.tolist()
        score = activation.double().mean() * (activation > 0).double().mean()
        assert fired.score == pytest.approx(float(score))
        assert fired.share == pytest.approx(fired.score / float(subject.highest[fired.feature]))
        assert (fired.name, fired.maximum) == (subject.names[fired.feature], subject.maxima[fired.feature])
    shares = [fired.share for fired in heard.concepts]
    assert shares == sorted(shares, reverse=True)
    assert listen(subject, on_disk, most=2).concepts == heard.concepts[:2]


def test_a_clip_of_the_probing_set_has_no_share_above_one(subject, run):
    shares = []
    for number in range(6):
        clip = hear(wav(made(number)), "x")
        sound = np.round(clip.waveform * 2**15).clip(-(2**15), 2**15 - 1).astype(np.float32) / 2**15  # as it is stored
        heard = listen(subject, Clip("x", sound, 16000, "x"), most=1000)
        shares += [fired.share for fired in heard.concepts]
    assert max(shares) == pytest.approx(1.0, abs=1e-3)


def test_an_encoder_is_listened_to_and_not_steered(subject, tmp_path):
    whisper(tmp_path / "encoder")
    model = load_audiollm(str(tmp_path / "encoder"))
    sae = TopKSAE(model.d_in, 64, k=4, generator=torch.Generator().manual_seed(0)).requires_grad_(False)
    ones, names = torch.ones(64), {feature: str(feature) for feature in range(0, 64, 2)}
    encoder = Subject(replace(subject.cell, layer=0), model, sae, ones, ones, names)
    clip = made(1)
    heard = listen(encoder, clip, most=64)
    (x,) = model.capture([clip], [0])[0]
    active = set(sae.encode(x).indices[sae.encode(x).values > 0].tolist())
    assert {fired.feature for fired in heard.concepts} == active & names.keys()
    assert (heard.num_tokens, heard.token_s) == (len(x), model.prompter.encoder.token_s)
    assert heard.heard_s == min(clip.duration_s, model.prompter.window_s)
    with pytest.raises(UserError, match="is an encoder, which cannot answer"):
        answer(encoder, clip, Asked("What do you hear?", [{}]))


def test_what_cannot_be_heard_is_refused_in_a_line():
    rate = 1000
    long = Clip("long", np.ones(int(LONGEST_S * rate) + 1, np.float32) / 2, rate, "x")
    for content, line in (
        (b"", "'a.mp3' cannot be heard (empty file): give another clip"),
        (b"<html>no sound</html>", "unreadable: its content cannot be decoded"),
        (wav(Clip("silent", np.zeros(16000, np.float32), 16000, "x")), "silent: its peak is"),
        (wav(long), "'a.mp3' is longer than 120 s: give a part of it"),
    ):
        with pytest.raises(UserError) as refused:
            hear(content, "a.mp3")
        assert line in str(refused.value)
    assert hear(wav(made(0)), "").id == "your clip"
    assert hear(wav(made(0)), "a\n\x1b[31mb.wav").id == r"a\n\x1b[31mb.wav"
