"""LAION's own package, its real code on the CPU, with random weights in the layout of its checkpoints."""

import sys
import time

import numpy as np
import pytest
import torch
from transformers import RobertaConfig, RobertaModel

from ard.embedding import load_clap
from ard.types import Clip, UserError
from tests.conftest import bpe


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A folder where the names of the three tokenizers that LAION's package loads are local folders."""
    folder = tmp_path_factory.mktemp("hub")
    special = {"pad_token": "<|endoftext|>", "eos_token": "<|im_end|>", "bos_token": "<|im_start|>"}
    tokenizer = bpe(unk_token="<|endoftext|>", sep_token="<|im_end|>", cls_token="<|im_start|>", **special)
    for name in ("roberta-base", "facebook/bart-base", "bert-base-uncased"):
        tokenizer.save_pretrained(folder / name)
    vocabulary = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    (folder / "bert-base-uncased" / "vocab.txt").write_text(
        "\n".join(["[UNK]", "[PAD]", "[CLS]", "[SEP]", *vocabulary]), encoding="utf-8"
    )
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=len(tokenizer), num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, pad_token_id=0
    )
    RobertaModel(config).save_pretrained(folder / "roberta-base")
    return folder


@pytest.fixture
def checkpoint(hub, monkeypatch, tmp_path):
    """A checkpoint as LAION publishes them: trained in parallel, hence `module.`, with an epoch's numbers beside it."""
    monkeypatch.chdir(hub)
    from laion_clap import CLAP_Module

    torch.manual_seed(0)
    weights = CLAP_Module(device="cpu").model.state_dict()
    weights = {f"module.{key}": value for key, value in weights.items()}
    weights["module.text_branch.embeddings.position_ids"] = torch.arange(514)[None]
    path = tmp_path / "checkpoint.pt"
    torch.save({"epoch": 3, "name": "x", "loss": np.float64(0.5), "state_dict": weights}, path)
    return path


def clips(*lengths_s):
    rng = np.random.default_rng(0)
    return [
        Clip(f"c{i}", (rng.standard_normal(int(s * 48000)) * 0.1).astype(np.float32), 48000, "test")
        for i, s in enumerate(lengths_s)
    ]


@pytest.mark.slow
def test_laions_own_checkpoints_embed_audio_and_text(checkpoint):
    clap = load_clap(f"laion:{checkpoint}")
    heard, said = clap.audio(clips(0.5, 1.0)), clap.text(["a dog barking", "rain"])
    assert heard.shape == said.shape == (2, clap.d) == (2, 512)
    torch.testing.assert_close(heard.norm(dim=1), torch.ones(2))
    assert not torch.allclose(heard[0], heard[1])
    assert not torch.allclose(said[0], said[1])
    # what the package itself says of the same sounds and words
    quantised = (clips(0.5)[0].waveform * 32767).astype(np.int16).astype(np.float32) / 32767
    torch.testing.assert_close(heard[0], torch.tensor(clap.module.get_audio_embedding_from_data([quantised])[0]))
    torch.testing.assert_close(said, torch.tensor(clap.module.get_text_embedding(["a dog barking", "rain"])))
    # long clips by the window rule, alike every time and in every batch
    (long,) = clips(11)
    alone = clap.audio([long])
    torch.testing.assert_close(clap.audio([*clips(0.5), long])[1:], alone, atol=1e-5, rtol=0)


def test_a_file_that_is_no_checkpoint_is_refused(hub, monkeypatch, tmp_path):
    monkeypatch.chdir(hub)
    path = tmp_path / "weights.pt"
    torch.save({"state_dict": {"a": torch.ones(1)}}, path)
    with pytest.raises(
        UserError, match=r"CLAP model 'laion:.*weights.pt' cannot be loaded .*one of LAION's checkpoints"
    ):
        load_clap(f"laion:{path}")


def test_a_fusion_checkpoint_is_left_to_transformers(hub, monkeypatch, tmp_path):
    monkeypatch.chdir(hub)
    path = tmp_path / "fusion.pt"
    torch.save({"state_dict": {"audio_branch.patch_embed.mel_conv2d.weight": torch.ones(1)}}, path)
    with pytest.raises(UserError, match="is a fusion checkpoint: give laion/clap-htsat-fused"):
        load_clap(f"laion:{path}")


def test_a_file_that_would_run_code_is_refused(hub, monkeypatch, tmp_path):
    class Harmful:
        def __reduce__(self):
            return (open, (str(tmp_path / "written"), "w"))

    monkeypatch.chdir(hub)
    path = tmp_path / "harmful.pt"
    torch.save({"state_dict": Harmful()}, path)
    with pytest.raises(UserError, match="cannot be loaded"):
        load_clap(f"laion:{path}")
    assert not (tmp_path / "written").exists()


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "laion_clap", None)
    with pytest.raises(UserError, match=r"pip install 'ard-audio\[laion-clap\]'"):
        load_clap("laion:630k-audioset-best.pt")


def test_without_a_network_one_line_says_what_to_fetch(no_network, monkeypatch, tmp_path):
    (tmp_path / "laion_clap.py").write_text("raise AssertionError('loads tokenizers from the hub')", encoding="utf-8")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "laion_clap", raising=False)
    no_network()
    started = time.monotonic()
    with pytest.raises(
        UserError,
        match=r"^lukewys/laion_clap 630k.pt \(unknown size\) cannot be fetched from .*, run `hf download "
        r"lukewys/laion_clap 630k.pt`, or give another --clap$",
    ):
        load_clap("laion:630k.pt")
    (tmp_path / "630k.pt").touch()
    with pytest.raises(UserError, match=r"run `hf download bert-base-uncased` and `hf download facebook/bart-base`"):
        load_clap(f"laion:{tmp_path / '630k.pt'}")
    assert time.monotonic() - started < 5
