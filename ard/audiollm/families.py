"""What differs between types of models; everything else is the same for every AudioLLM."""

import base64
import io
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import soundfile
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForMultimodalLM,
    AutoModelForSeq2SeqLM,
    AutoProcessor,
    BatchFeature,
    ClapAudioModel,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling

from ard.audiollm.encoders import (
    ClapEncoder,
    Encoder,
    SpectrogramTransformer,
    Waveform,
    WaveformEncoder,
    WhisperEncoder,
)


def extractor(processor: Any) -> Any:
    """Return the part of a processor that turns waveforms into features; an encoder's processor is itself that part."""
    for name in ("feature_extractor", "audio_processor"):
        if hasattr(processor, name):
            return getattr(processor, name)
    return processor


def chat(processor: Any, waveform: Waveform, prompt: str) -> BatchFeature:
    """Put one clip and a question into the chat template, as the user's turn."""
    return _processed(processor, waveform, processor.apply_chat_template, _user(prompt))


def _padded_chat(processor: Any, waveform: Waveform, prompt: str) -> BatchFeature:
    """Pad the clip to the whole window; otherwise Gemma 3n's convolutions would see other values beyond its end."""
    turns = _user(prompt)
    return _processed(processor, waveform, processor.apply_chat_template, turns, audio_kwargs={"padding": "max_length"})


def _written_chat(processor: Any, waveform: Waveform, prompt: str) -> BatchFeature:
    """Write the audio token into the question, for templates that take only text."""
    turns = [{"role": "user", "content": f"{processor.audio_token}{prompt}"}]
    return _processed(processor, waveform, processor.tokenizer.apply_chat_template, turns)


def _system_chat(processor: Any, waveform: Waveform, prompt: str) -> BatchFeature:
    """Ask in the system's turn: Qwen3-ASR's template drops the user's text."""
    system = {"role": "system", "content": [{"type": "text", "text": prompt}]}
    turns = [system, {"role": "user", "content": [{"type": "audio", "audio": ""}]}]
    return _processed(processor, waveform, processor.apply_chat_template, turns)


def _user(prompt: str) -> list[Any]:
    return [{"role": "user", "content": [{"type": "audio", "audio": ""}, {"type": "text", "text": prompt}]}]


def _processed(
    processor: Any,
    waveform: Waveform,
    template: Callable[..., str],
    turns: list[Any],
    audio_kwargs: Mapping[str, str] | None = None,
) -> BatchFeature:
    """Let the processor replace the audio token by the clip's tokens.

    Padding is not requested: text needs none, and some processors would then not fill the audio up to a whole window.
    The tokenizer does not add the token that begins a text if the template has already written it.
    """
    text = template(turns, add_generation_prompt=True, tokenize=False)
    bos = processor.tokenizer.bos_token
    return processor(
        text=[text],
        audio=[waveform],
        sampling_rate=extractor(processor).sampling_rate,
        return_tensors="pt",
        **({"add_special_tokens": False} if bos and text.startswith(bos) else {}),
        **({"audio_kwargs": audio_kwargs} if audio_kwargs else {}),
    )


def _mistral_chat(processor: Any, waveform: Waveform, prompt: str) -> BatchFeature:
    """Pass Voxtral's audio to mistral-common as a file; 32-bit floats keep the samples unchanged."""
    file = io.BytesIO()
    soundfile.write(file, waveform, processor.feature_extractor.sampling_rate, format="WAV", subtype="FLOAT")
    content = [{"type": "audio", "base64": base64.b64encode(file.getvalue()).decode()}]
    question = [{"type": "text", "text": prompt}] if prompt else []
    return processor.apply_chat_template([{"role": "user", "content": content + question}])


class Family(NamedTuple):
    """How models of one type are loaded and prompted."""

    prepare: Callable[[Any, Waveform, str], BatchFeature] = chat  # one clip and its question, without padding
    window_s: float | None = None  # longest clip by the model's card, if its processor does not cut clips
    filled_s: float | None = None  # silence, which has tokens too, fills clips up to a multiple of this
    lone_encoder: str | None = None  # module path of an audio encoder that mixes the clips of a batch
    encoder: type[Encoder] | None = None  # of a model that hears and does not answer
    model_class: Any = AutoModelForMultimodalLM
    processor_class: Any = AutoProcessor


def _hears(encoder: type[Encoder], model_class: Any = AutoModel) -> Family:
    """Return the family of a model of which only the encoder is used."""
    return Family(encoder=encoder, model_class=model_class, processor_class=AutoFeatureExtractor)


FAMILIES = {
    "audioflamingo3": Family(model_class=AutoModelForSeq2SeqLM),
    "gemma3n": Family(_padded_chat, window_s=30, filled_s=30.0),
    "glmasr": Family(),
    "granite_speech": Family(_written_chat, window_s=13000, lone_encoder="model.encoder"),  # 128 K tokens, 10 a second
    "musicflamingo": Family(model_class=AutoModelForSeq2SeqLM),
    "phi4_multimodal": Family(
        _written_chat, window_s=1800, lone_encoder="model.embed_tokens_extend.audio_embed.encoder"
    ),
    "qwen2_5_omni_thinker": Family(),
    "qwen2_audio": Family(),
    "qwen3_asr": Family(_system_chat, window_s=1200),
    "qwen3_omni_moe_thinker": Family(window_s=2400, lone_encoder="model.audio_tower"),
    "voxtral": Family(_mistral_chat, window_s=2400, filled_s=30.0),
    "whisper": _hears(WhisperEncoder),
    "wav2vec2": _hears(WaveformEncoder),
    "hubert": _hears(WaveformEncoder),
    "wavlm": _hears(WaveformEncoder),
    "audio-spectrogram-transformer": _hears(SpectrogramTransformer),
    "clap": _hears(ClapEncoder),
    "clap_audio_model": _hears(ClapEncoder, ClapAudioModel),
}
"""What is special about each model type that the tests cover. Other types are tried as the plain case."""

PLAIN = Family()


def encode_alone(encoder: Any) -> None:
    """Let an audio encoder process every clip of a batch on its own, at its own length.

    Some encoders have no mask, ignore it, or convolve across a clip's end: a clip's result would depend on the lengths
    of the others. Clips come as rows, with NaN beyond a clip's end, or concatenated, with their lengths.
    """
    forward = encoder.forward

    def alone(features: Tensor, *masks: None, feature_lens: Tensor | None = None, **options: Any) -> Any:
        if feature_lens is not None:
            clips = zip(features.split(feature_lens.tolist(), dim=1), feature_lens.split(1), strict=True)
            outputs = [forward(clip, feature_lens=length, **options).last_hidden_state for clip, length in clips]
            return BaseModelOutputWithPooling(last_hidden_state=torch.cat(outputs))
        outputs = [forward(clip[~clip.isnan().any(dim=-1)][None], *masks, **options) for clip in features]
        plain = isinstance(outputs[0], Tensor)
        hidden = pad_sequence([(out if plain else out.last_hidden_state)[0] for out in outputs], batch_first=True)
        return hidden if plain else BaseModelOutputWithPooling(last_hidden_state=hidden)

    encoder.forward = alone
