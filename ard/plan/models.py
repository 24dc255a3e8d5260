"""What the plan takes from models: their dimensions and their prompts, from small files, without building anything."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HFValidationError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from ard.hub import ensure_models
from ard.plan.inputs import Preset
from ard.types import UserError

OTHERWISE = "give a local folder as `model` in the preset's run.yaml"
TEMPLATE_TOKENS = 27  # of Qwen2-Audio's chat template around the audio
PACKAGE = Path(__file__).parent.parent
EMBEDDED = "embedded"  # the small models shipped with the package
ENCODERS = ("audio-spectrogram-transformer", "clap", "clap_audio_model", "hubert", "wav2vec2", "wavlm", "whisper")
"""Types of models that hear and do not answer, as ``ard.audiollm`` has them; to import that takes seconds."""
_QWEN2 = {"intermediate_size": 11008, "vocab_size": 156032}
_QWEN2_5 = {"hidden_size": 3584, "intermediate_size": 18944, "vocab_size": 152064, "num_hidden_layers": 28}
PUBLISHED: dict[str, dict[str, Any]] = {
    name: {"model_type": "qwen2_audio", "dtype": "bfloat16", "text_config": {"model_type": "qwen2", **decoder}}
    for name, decoder in {
        "Qwen/Qwen2-Audio-7B-Instruct": _QWEN2,
        "SeaLLMs/SeaLLMs-Audio-7B": {**_QWEN2_5, "num_attention_heads": 28, "num_key_value_heads": 4},
    }.items()
}
"""What the hub's ``config.json`` says, to plan the paper's preset offline; the rest is transformers' default.

By its README, SeaLLMs-Audio is Qwen2-Audio with the decoder of Qwen2.5-7B-Instruct; we have not seen its own file.
"""
QWEN2_AUDIO: Mapping[str, Mapping[str, Any]] = {
    "audio_config": {
        "d_model": 1280,
        "encoder_ffn_dim": 5120,
        "encoder_layers": 32,
        "max_source_positions": 1500,
        "num_mel_bins": 128,
    },
    "text_config": {
        "head_dim": None,
        "hidden_size": 4096,
        "intermediate_size": 22016,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 32,
        "vocab_size": 151936,
    },
}
CLAP: Mapping[str, Mapping[str, Any]] = {
    "audio_config": {
        "depths": (2, 2, 6, 2),
        "hidden_size": 768,
        "mlp_ratio": 4.0,
        "num_mel_bins": 64,
        "patch_embed_input_channels": 1,
        "patch_embeds_hidden_size": 96,
        "patch_size": 4,
        "patch_stride": (4, 4),
        "projection_dim": 512,
        "spec_size": 256,
        "window_size": 8,
    },
}
"""The dimensions that costs depend on, with transformers' defaults, which a ``config.json`` may leave out."""
_HTSAT_BASE = {"audio_config": {"patch_embeds_hidden_size": 128, "hidden_size": 1024, "depths": [2, 2, 12, 2]}}


class Model(NamedTuple):
    """An AudioLLM to plan with.

    ``folder`` holds its tokenizer and chat template; without it, a prompt's length is estimated.
    """

    audio: Mapping[str, Any]  # dimensions, named as in config.json's audio_config
    text: Mapping[str, Any]  # and as in its text_config
    dtype: str  # of its checkpoint
    folder: Path | None
    source: str

    def num_text_tokens(self, prompt: str) -> int:
        """Return the positions of a prompt that are not audio."""
        if self.folder is None:
            return TEMPLATE_TOKENS + len(prompt.split())
        template = (self.folder / "chat_template.jinja").read_text(encoding="utf-8")
        chat = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(template)
        content = [{"type": "audio", "audio": ""}, {"type": "text", "text": prompt}]
        text = chat.render(messages=[{"role": "user", "content": content}], add_generation_prompt=True)
        return len(Tokenizer.from_file(str(self.folder / "tokenizer.json")).encode(text).ids) - 1  # the audio token


def only_hears(preset: Preset, name: str) -> bool:
    """Return whether a model is an encoder, by its own configuration."""
    if name in (preset.facts.get("dimensions") or {}) or name in PUBLISHED:
        return False
    try:
        return _config(name, "audiollm").get("model_type") in ENCODERS
    except (OSError, ValueError):
        return False  # read_model says why


def read_model(preset: Preset, name: str) -> Model:
    """Take a model's dimensions from the preset, or else as published, or else from its own configuration."""
    stated = (preset.facts.get("dimensions") or {}).get(name)
    published = stated or PUBLISHED.get(name)
    hint = (
        "give a local folder, or state the content of its config.json (with model_type) under `dimensions` in the "
        "preset's run.yaml"
    )
    try:
        config = published or _config(name, "audiollm")
        model_type = config["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"the dimensions of model {name!r} cannot be read: {hint}") from error
    if model_type != "qwen2_audio":
        raise UserError(f"model {name!r} is a {model_type}: only a qwen2_audio can be planned, or an encoder by itself")
    audio, text = (_dimensions(config, part, QWEN2_AUDIO[part], name, hint) for part in QWEN2_AUDIO)
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    folder = None if published else _folder(name, "audiollm")
    if folder and all((folder / file).is_file() for file in ("chat_template.jinja", "tokenizer.json")):
        return Model(audio, text, dtype, folder, "its own")
    source = "the preset's" if stated else "as published" if published else "its own"
    return Model(audio, text, dtype, None, f"{source}; its prompt counted as {TEMPLATE_TOKENS} tokens and one per word")


def read_clap(name: str) -> tuple[Mapping[str, Any], str]:
    """Take the dimensions of CLAP's audio encoder from this machine, or else those of LAION's larger one.

    Returns:
        The dimensions, named as in config.json's audio_config, and where they are from.
    """
    try:
        config, source = _config(name, "embedding", local_files_only=True), "its own"
    except (OSError, ValueError):
        config, source = _HTSAT_BASE, "HTSAT-base"
    return _dimensions(config, "audio_config", CLAP["audio_config"], name, "mend its config.json"), source


def _dimensions(
    config: Mapping[str, Any], part: str, defaults: Mapping[str, Any], name: str, hint: str
) -> Mapping[str, Any]:
    """Return one part's dimensions, each of the kind that its default has."""
    merged = {key: (config.get(part) or {}).get(key, default) for key, default in defaults.items()}
    for key, value in merged.items():
        sizes = value if isinstance(value, list | tuple) else [value]
        if value is not None and not all(isinstance(size, int | float) and size > 0 for size in sizes):
            raise UserError(f"the dimensions of model {name!r} cannot be read: {part}.{key} is {value!r}: {hint}")
    return merged


def _config(name: str, room: str, *, local_files_only: bool = False) -> Mapping[str, Any]:
    """Read a model's config.json from its folder, or else from the hub or its cache."""
    folder = _folder(name, room)
    if folder is None and not local_files_only:
        ensure_models([name], weights=False, otherwise=OTHERWISE)
    try:
        path = folder or Path(hf_hub_download(name, "config.json", local_files_only=True)).parent
    except HFValidationError as error:  # neither a folder nor the form of an id
        raise FileNotFoundError(name) from error
    config: Mapping[str, Any] = json.loads((path / "config.json").read_text(encoding="utf-8"))
    return config


def _folder(name: str, room: str) -> Path | None:
    folder = PACKAGE / room / EMBEDDED if name == EMBEDDED else Path(name)
    return folder if folder.is_dir() else None
