import numpy as np
import pytest
import torch

from ard.audio import write_audio_shards
from ard.embedding import embed_clips, load_clap
from ard.types import Clip, UserError


def clips(*lengths_s):
    rng = np.random.default_rng(0)
    return [
        Clip(f"c{i}", (rng.standard_normal(int(s * 48000)) * 0.1).astype(np.float32), 48000, "test")
        for i, s in enumerate(lengths_s)
    ]


@pytest.fixture(scope="module")
def clap(tiny_clap):
    return load_clap(tiny_clap)


def test_audio_and_text_lie_on_one_sphere(clap):
    for embedded in (clap.audio(clips(0.5, 0.9)), clap.text(["a dog", "rain"])):
        assert embedded.shape == (2, 8)
        torch.testing.assert_close(embedded.norm(dim=1), torch.ones(2))


def test_a_batch_equals_its_members(clap):
    heard, said = clips(0.5, 0.9, 0.7), ["a dog", "a man speaking, happy or sad", "rain"]
    alone = torch.cat([clap.audio([clip]) for clip in heard])
    torch.testing.assert_close(clap.audio(heard), alone, atol=1e-5, rtol=0)
    fresh = torch.cat([type(clap)(clap.model, clap.processor, "x").text([text]) for text in said])
    torch.testing.assert_close(clap.text(said), fresh, atol=1e-5, rtol=0)


def test_long_clips_are_the_mean_of_their_windows_every_time(clap):
    (long,) = clips(2.5)
    windows = [Clip(str(i), w, 48000, "test") for i, w in enumerate(np.array_split(long.waveform, 3))]
    mean = torch.nn.functional.normalize(clap.audio(windows).sum(dim=0), dim=0)
    torch.testing.assert_close(clap.audio([long])[0], mean, atol=1e-5, rtol=0)
    assert torch.equal(clap.audio([long]), clap.audio([long]))


def test_no_text_gives_no_rows(clap):
    assert clap.text([]).shape == (0, 8)


def test_embeddings_are_kept_in_the_order_asked_for(clap, tmp_path, monkeypatch):
    heard = clips(0.5, 0.9, 0.7)
    write_audio_shards(heard, tmp_path / "audio")
    path = tmp_path / "embeddings.safetensors"
    first = embed_clips(clap, tmp_path / "audio", ["c2", "c0"], path)
    torch.testing.assert_close(first, clap.audio([heard[2], heard[0]]), atol=2e-3, rtol=0)
    monkeypatch.setattr(type(clap), "audio", None)  # nothing is computed twice
    assert torch.equal(embed_clips(clap, tmp_path / "audio", ["c2", "c0"], path), first)
    with pytest.raises(TypeError):
        embed_clips(clap, tmp_path / "audio", ["c0", "c1"], path)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"CLAP model .* cannot be loaded"):
        load_clap(str(tmp_path))
