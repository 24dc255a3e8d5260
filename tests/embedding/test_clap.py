import json
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

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


def test_a_model_is_read_from_disk_once_and_only_the_last_one_is_kept(tiny_clap):
    first = load_clap(tiny_clap)
    assert load_clap(tiny_clap, device="cpu") is first
    assert load_clap("embedded") is not first
    assert load_clap(tiny_clap) is not first  # it made room for the other


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


@pytest.fixture
def audio(tmp_path):
    """Five clips in three audio shards."""
    write_audio_shards(clips(0.5, 0.9, 0.7, 0.4, 0.6), tmp_path / "audio", clips_per_shard=2)
    return tmp_path / "audio"


def test_embeddings_are_kept_in_the_order_asked_for(clap, audio, tmp_path, monkeypatch):
    path, wanted, heard = tmp_path / "embeddings.safetensors", ["c2", "c4", "c0"], clips(0.5, 0.9, 0.7, 0.4, 0.6)
    first = embed_clips(clap, audio, wanted, path)
    torch.testing.assert_close(first, clap.audio([heard[2], heard[4], heard[0]]), atol=2e-3, rtol=0)
    monkeypatch.setattr(type(clap), "hear", None)  # nothing is computed twice
    assert torch.equal(embed_clips(clap, audio, wanted, path), first)
    assert [file.name for file in tmp_path.iterdir()] == ["audio", path.name]
    with pytest.raises(TypeError):
        embed_clips(clap, audio, ["c0", "c1"], path)


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_embedding_goes_on_with_the_shard_where_it_was_stopped(clap, audio, tmp_path, monkeypatch, num_workers):
    wanted = [f"c{number}" for number in range(5)]
    whole = embed_clips(clap, audio, wanted, tmp_path / "whole.safetensors")
    hear, heard = type(clap).hear, []

    def stopped_at(number):
        def counted(self, prepared):
            if len(heard) == number:
                raise KeyboardInterrupt
            heard.append(len(set(prepared.clip_of_window)))
            return hear(self, prepared)

        return counted

    for number in (2, None):
        monkeypatch.setattr(type(clap), "hear", stopped_at(number))
        with nullcontext() if number is None else pytest.raises(KeyboardInterrupt):
            found = embed_clips(clap, audio, wanted, tmp_path / "again.safetensors", num_workers=num_workers)
    assert heard == [2, 2, 1]
    assert torch.equal(found, whole)


def test_what_is_prepared_apart_is_what_the_models_own_processor_makes(clap):
    prepared = pickle.loads(pickle.dumps(clap.prepare))(clips(0.5, 0.9))
    rate_hz = clap.processor.feature_extractor.sampling_rate
    waveforms = [clip.waveform for clip in clips(0.5, 0.9)]
    own = clap.processor(audio=waveforms, sampling_rate=rate_hz, return_tensors="pt")
    assert prepared.clip_of_window == [0, 1]
    assert prepared.inputs.keys() == own.keys()
    assert all(torch.equal(prepared.inputs[name], own[name]) for name in own.keys() - {"is_longer"})
    assert not prepared.inputs["is_longer"].any()


def test_a_damaged_shard_is_named_from_a_worker(clap, audio, tmp_path):
    (audio / "000001.tar").write_bytes(b"nothing")
    with pytest.raises(UserError) as error:
        embed_clips(clap, audio, ["c0", "c2"], tmp_path / "embeddings.safetensors", num_workers=1)
    assert str(error.value).startswith(f"audio shard '{audio / '000001.tar'}' is damaged")


def test_ranks_embed_shards_of_their_own(clap, audio, tmp_path):
    wanted = [f"c{number}" for number in range(5)]
    whole = embed_clips(clap, audio, wanted, tmp_path / "whole.safetensors")
    together = threading.Barrier(2)

    def run(rank):
        path = tmp_path / "ranks.safetensors"
        return embed_clips(clap, audio, wanted, path, rank=rank, world_size=2, barrier=together.wait)

    with ThreadPoolExecutor(2) as ranks:
        for found in ranks.map(run, (0, 1)):
            assert torch.equal(found, whole)


def test_other_audio_under_the_same_ids_is_embedded_anew(clap, audio, tmp_path):
    first = embed_clips(clap, audio, ["c0"], tmp_path / "embeddings.safetensors")
    write_audio_shards(clips(0.8), audio)
    assert not torch.equal(embed_clips(clap, audio, ["c0"], tmp_path / "embeddings.safetensors"), first)


def test_clips_that_are_not_in_the_audio_are_named(clap, audio, tmp_path):
    with pytest.raises(UserError, match=r"clip 'x' and 1 more of the activations are not in .*: give the folder of"):
        embed_clips(clap, audio, ["c0", "x", "y"], tmp_path / "embeddings.safetensors")


def computed(folder, kind, **embeddings):
    tensors = {"embeddings": torch.tensor(list(embeddings.values()))}
    save_file(tensors, folder / f"{kind}.safetensors", {"names": json.dumps(list(embeddings))})


def test_embeddings_that_were_computed_elsewhere_are_looked_up(audio, tmp_path):
    computed(tmp_path, "clips", c0=[3.0, 4.0], c1=[0.0, 2.0])
    clap = load_clap(f"computed:{tmp_path}")
    assert clap.d == 2
    assert embed_clips(clap, audio, ["c1", "c0"], tmp_path / "e.safetensors").tolist() == [
        [0, 1],
        [0.6000000238418579, 0.800000011920929],
    ]
    with pytest.raises(
        UserError, match=r"'computed:.*' lacks 1 clips \('c2'\): compute them, as experiments/msclap does"
    ):
        embed_clips(clap, audio, ["c0", "c2"], tmp_path / "e.safetensors")
    with pytest.raises(UserError, match=r"lacks 2 texts \('a dog'\)"):
        clap.text(["a dog", "rain", "a dog"])
    assert json.loads((tmp_path / "missing.json").read_text(encoding="utf-8")) == {"texts": ["a dog", "rain"]}
    computed(tmp_path, "texts", **{"rain": [0.0, 5.0], "a dog": [1.0, 0.0]})
    assert clap.text(["a dog", "rain"]).tolist() == [[1, 0], [0, 1]]


def test_computed_embeddings_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "clips.safetensors").write_bytes(b"nothing")
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(
            UserError, match=r"clips.safetensors' cannot be read \(.*\): compute it, as experiments/msclap"
        ):
            load_clap(f"computed:{folder}")


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"CLAP model .* cannot be loaded"):
        load_clap(str(tmp_path))
