"""Dimensions read without transformers are those of its own classes, and so are the weights that follow from them."""

import json

import pytest
import torch
from transformers import AutoConfig, AutoModelForMultimodalLM

from ard.audiollm import load_prompter
from ard.naming import CAPTION_PROMPT
from ard.plan.cost import model_cost
from ard.plan.inputs import Preset
from ard.plan.models import CLAP, PUBLISHED, QWEN2_AUDIO, read_clap, read_model
from ard.types import Clip, UserError

NO_FACTS = Preset({})


@pytest.mark.parametrize(("model_type", "dimensions"), [("qwen2_audio", QWEN2_AUDIO), ("clap", CLAP)])
def test_dimensions_that_are_left_out_are_transformers_defaults(model_type, dimensions):
    config = AutoConfig.for_model(model_type)
    for part, defaults in dimensions.items():
        own = {name: getattr(getattr(config, part), name, None) for name in defaults}
        assert own == {**defaults}


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        *(model["text_config"] for model in PUBLISHED.values()),
        {"hidden_size": 96, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 24},
        {"num_hidden_layers": 3, "tie_word_embeddings": True},
    ],
    ids=["Qwen2-Audio", "SeaLLMs-Audio", "own head_dim", "tied"],
)
def test_weights_are_those_of_the_model(text):
    given = {"model_type": "qwen2_audio", "text_config": {"model_type": "qwen2", **text}}
    with torch.device("meta"):
        weights = AutoModelForMultimodalLM.from_config(AutoConfig.for_model(**given)).parameters()
    model = read_model(Preset({"dimensions": {"one": given}}), "one")
    assert model_cost(model.audio, model.text).num_weights == sum(weight.numel() for weight in weights)


def test_published_dimensions_have_the_published_number_of_weights():
    """8.397e9 weights: the hub's count for Qwen2-Audio-7B-Instruct."""
    model = read_model(NO_FACTS, "Qwen/Qwen2-Audio-7B-Instruct")
    assert model.dtype == "bfloat16"
    assert model_cost(model.audio, model.text).num_weights == 8_397_094_912
    # twice the weights a position in the layers up to 26, each 4 x 4096^2 and 3 x 4096 x 11008
    decoder = model_cost(model.audio, model.text, 26).decoder
    assert decoder == (2 * 27 * (4 * 4096**2 + 3 * 4096 * 11008), 27 * 4 * 4096)


@pytest.mark.parametrize("prompt", ["", CAPTION_PROMPT, "What is it?\nOne word: dog, cat."])
def test_a_prompt_has_the_tokens_of_the_processor(prompt):
    batch = load_prompter()([Clip("c", torch.zeros(8000).numpy(), 16_000, "silence")], [prompt])
    assert read_model(NO_FACTS, "embedded").num_text_tokens(prompt) == int((batch.valid & ~batch.audio).sum())


def test_a_model_of_its_own_folder_says_its_dtype_and_dimensions(tiny_audiollm, tiny_clap):
    config = AutoConfig.from_pretrained(tiny_audiollm)
    model = read_model(NO_FACTS, str(tiny_audiollm))
    assert model.text["hidden_size"] == config.text_config.hidden_size
    assert model.audio["max_source_positions"] == config.audio_config.max_source_positions
    assert model.dtype == str(config.dtype).removeprefix("torch.")
    clap, source = read_clap(str(tiny_clap))
    assert (clap["projection_dim"], source) == (
        AutoConfig.from_pretrained(tiny_clap).audio_config.projection_dim,
        "its own",
    )


@pytest.mark.parametrize("name", ["laion/a-clap-that-is-not-here", "/nowhere/clap", "no id: at all"])
def test_a_clap_that_is_not_here_is_taken_as_the_larger_of_laion(name, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    clap, source = read_clap(name)
    assert (clap["hidden_size"], source) == (1024, "HTSAT-base")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "qwen2_audio", "text_config": {"hidden_size": "wide"}}, "text_config.hidden_size is 'wide'"),
        ({"model_type": "qwen2_audio", "audio_config": {"d_model": 0}}, "audio_config.d_model is 0"),
        ({"model_type": "whisper"}, "is a whisper: only a qwen2_audio can be planned"),
        ({}, "give a local folder, or state the content"),
        ([], "give a local folder, or state the content"),
    ],
    ids=str,
)
def test_a_config_that_says_no_dimensions_is_refused(tmp_path, config, message):
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read_model(NO_FACTS, str(tmp_path))
