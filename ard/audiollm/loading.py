"""Load an AudioLLM or an audio encoder with its own weights, all of them."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from ard.audiollm.audiollm import AudioLLM
from ard.audiollm.families import FAMILIES, PLAIN, Family, encode_alone
from ard.audiollm.generation import keep_plain_options
from ard.audiollm.precision import widen_on_cpu
from ard.audiollm.prompter import EMBEDDED, explained, load_config, load_prompter, source
from ard.console import at_work
from ard.types import UserError

TRAINING_ONLY = "masked_spec_embed"  # of wav2vec 2.0's kind, which checkpoints trained further leave out


def load_audiollm(
    model: str = EMBEDDED,
    *,
    device: str = "cpu",
    dtype: str = "auto",
    layers_path: str | None = None,
    attention: str = "sdpa",
    window: str | None = None,
) -> AudioLLM:
    """Load an AudioLLM or audio encoder from a folder or the hub; ``embedded`` is the small one of the package.

    Only safetensors weights are read, and no code that comes with a model is run.

    Args:
        model: local folder or hub id.
        device: device to run on; ``meta`` gives shapes without reading weights.
        dtype: precision of the weights; ``auto`` is the checkpoint's, or on a CPU float32 if that fits into memory.
        layers_path: module path of the layers, such as ``audio_tower.layers`` of a Qwen2-Audio; by default the
            decoder's, or an encoder's longest list of layers.
        attention: transformers' name for an implementation, such as ``flash_attention_2``.
        window: ``clip`` computes only what is there of encoders that fill their window with padding (Whisper, AST)
            and have no mask: fast for short clips, but another model than the one that was trained.

    Raises:
        UserError: if the folder or id cannot be loaded, takes no audio, or has no such layers or window.
    """
    config, prompter = load_config(model), load_prompter(model, layers_path=layers_path, window=window)
    family = FAMILIES.get(config.model_type, PLAIN)
    if torch.device(device).type == "meta":
        with torch.device("meta"):
            of_config = getattr(family.model_class, "from_config", family.model_class)  # an auto class has the former
            network = of_config(config)
    else:
        network = _with_weights(model, config, family, dtype, attention).to(device)
        keep_plain_options(network)
        if dtype == "auto":
            widen_on_cpu(network, f"model {model!r}")
    if family.lone_encoder is not None:
        encode_alone(network.get_submodule(family.lone_encoder))
    return AudioLLM(network, prompter, model, layers_path)


def _with_weights(model: str, config: Any, family: Family, dtype: str, attention: str) -> Any:
    """Load a network; refuse missing weights, which transformers would replace by random numbers."""
    hears = family.encoder is not None
    with at_work(f"loading {model}"), explained(model), _without_report() if hears else nullcontext():
        network, info = family.model_class.from_pretrained(
            source(model),
            config=config,
            dtype=dtype,
            attn_implementation=None if hears and attention == "sdpa" else attention,  # where the type has it
            output_loading_info=True,
        )
    if missing := sorted(name for name in info["missing_keys"] if not name.endswith(TRAINING_ONLY)):
        raise UserError(
            f"model {model!r} ({config.model_type}) has no weights for {len(missing)} of its tensors, such as "
            f"{missing[0]!r}: download it again, or give a folder that save_pretrained wrote"
        )
    if getattr(config, "has_lora_adapter", False) and not network._hf_peft_config_loaded:
        raise UserError(
            f"model {model!r} ({config.model_type}) hears through a LoRA adapter, which transformers leaves out where "
            "peft is missing: install it (pip install peft)"
        )
    return network


@contextmanager
def _without_report() -> Iterator[None]:
    """Keep transformers from listing the weights that an encoder leaves unused, such as the head of a classifier."""
    logger = logging.getLogger("transformers.modeling_utils")

    def is_no_report(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    logger.addFilter(is_no_report)
    try:
        yield
    finally:
        logger.removeFilter(is_no_report)
