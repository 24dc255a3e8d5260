"""Tiny random models of the real classes, saved and loaded as a user's would be."""

import os
import sys
from importlib.machinery import PathFinder
from importlib.metadata import DistributionFinder, MetadataPathFinder
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

# Whatever runs has one thread, the processes that tests start too: threads that wait for one another across several
# processes take all the time there is. And bytes are equal only between runs on as many threads.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


class Extras(MetadataPathFinder):
    """Find what `make test` puts into .venv/extras; unlike sys.path, it is not handed on to spawned processes."""

    FOLDER = str(Path(sys.prefix) / "extras")

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return PathFinder.find_spec(name, [cls.FOLDER], target) if path is None else None

    @classmethod
    def find_distributions(cls, context):
        return MetadataPathFinder.find_distributions(DistributionFinder.Context(name=context.name, path=[cls.FOLDER]))


# torchvision's compiled operators load only beside the build of torch that they were compiled for. None of them is
# called here, but without their declarations `import torchvision` fails, and so do the processors that want it.
sys.meta_path.append(Extras)
try:
    import torchvision  # noqa: F401
except RuntimeError:
    OPERATORS = torch.library.Library("torchvision", "DEF")
    for operator in ("roi_align", "ps_roi_align", "roi_pool", "ps_roi_pool", "deform_conv2d"):
        OPERATORS.define(f"{operator}(Tensor x) -> Tensor")
        OPERATORS.define(f"_{operator}_backward(Tensor x) -> Tensor")
    for operator in ("nms", "qnms"):
        OPERATORS.define(f"{operator}(Tensor x) -> Tensor")

from tokenizers import ByteLevelBPETokenizer
from transformers import (
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    ClapProcessor,
    PreTrainedTokenizerFast,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    RobertaConfig,
    RobertaModel,
    WhisperFeatureExtractor,
)

from tests.audiollm.families import tiny
from tests.chats import misbehave, served, tiny_chat  # noqa: F401, of naming and of steering
from tests.hubs import hub, no_network  # noqa: F401, of models and of SAEs


def pytest_collection_modifyitems(items):
    """Begin with the files that hold slow tests: those that are left at the end are short, so both processes end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"]


def bpe(**special):
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(tiny.SENTENCES, vocab_size=300, special_tokens=SPECIAL, show_progress=False)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer._tokenizer, model_max_length=512, **special)


@pytest.fixture(scope="session")
def tiny_audiollm(tmp_path_factory):
    """A Qwen2-Audio of random weights with a window of one second (25 audio tokens), as a local folder."""
    folder = tmp_path_factory.mktemp("tiny-audiollm")
    tokenizer = bpe(pad_token="<|endoftext|>", eos_token="<|im_end|>", additional_special_tokens=SPECIAL[1:])
    config = Qwen2AudioConfig(
        audio_config=tiny.encoder("qwen2_audio_encoder", encoder_layers=1, max_source_positions=50),
        text_config={"model_type": "qwen2", **tiny.llm(tokenizer)},
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
    )
    torch.manual_seed(0)
    Qwen2AudioForConditionalGeneration(config).save_pretrained(folder)
    features = WhisperFeatureExtractor(feature_size=16, sampling_rate=16000, chunk_length=1)
    Qwen2AudioProcessor(features, tokenizer).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tiny_clap(tmp_path_factory):
    """A CLAP of random weights with a window of one second, as a local folder."""
    folder = tmp_path_factory.mktemp("tiny-clap")
    tokenizer = bpe(pad_token="<|endoftext|>", eos_token="<|im_end|>")
    config = ClapConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "max_position_embeddings": 80,
            "pad_token_id": tokenizer.pad_token_id,
        },
        audio_config={
            "num_mel_bins": 16,
            "spec_size": 64,
            "window_size": 2,
            "patch_embeds_hidden_size": 8,
            "depths": (1, 1),
            "num_attention_heads": (1, 2),
            "hidden_size": 16,
            "num_hidden_layers": 2,
        },
        projection_dim=8,
    )
    torch.manual_seed(0)
    ClapModel(config).save_pretrained(folder)
    features = ClapFeatureExtractor(feature_size=16, max_length_s=1, truncation="rand_trunc")
    ClapProcessor(features, tokenizer).save_pretrained(folder)
    return str(folder)


def save_roberta(folder, num_layers):
    """Save a language model of random weights with its tokenizer."""
    special = {"pad_token": "<|endoftext|>", "eos_token": "<|im_end|>", "bos_token": "<|im_start|>"}
    tokenizer = bpe(sep_token="<|im_end|>", cls_token="<|im_start|>", **special)
    tokenizer.model_max_length = int(1e30)  # what a tokenizer says that was saved without one
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 8, "max_position_embeddings": 40}
    config = RobertaConfig(vocab_size=len(tokenizer), num_hidden_layers=num_layers, pad_token_id=0, **sizes)
    RobertaModel(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tiny_roberta(tmp_path_factory):
    """A language model for BERTScore, as a local folder."""
    return save_roberta(tmp_path_factory.mktemp("tiny-roberta"), num_layers=2)


@pytest.fixture
def sounds(tmp_path):
    """A folder of six usable sounds of several formats, rates and channels, and five that are not."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "my sounds"
    formats = [("a dog.wav", 16000, 1), ("b/ünïcode naïve.flac", 44100, 2), ("b/c d.ogg", 22050, 1)]
    formats += [("e.f.wav", 8000, 2), ("g.mp3", 48000, 1), ("long.wav", 16000, 1)]
    for name, rate, channels in formats:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        seconds = 1.5 if name == "long.wav" else 0.8
        soundfile.write(path, 0.3 * rng.standard_normal((int(seconds * rate), channels)).clip(-3, 3), rate)
    soundfile.write(folder / "silent.wav", np.zeros(16000), 16000)
    soundfile.write(folder / "short.wav", 0.1 * rng.standard_normal(100), 16000)
    soundfile.write(folder / "no samples.wav", np.zeros(0), 16000)
    (folder / "empty.wav").touch()
    (folder / "broken.mp3").write_bytes(b"this is no sound" * 10)
    return folder
