"""The AudioLLM: one interface over a model and its processor."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForMultimodalLM, AutoProcessor, BatchFeature

from ard.audio import resample
from ard.audiollm.hooks import stop_after
from ard.types import Clip, UserError

EMBEDDED = "embedded"  # the small model that is shipped with the package


class AudioPrompts(NamedTuple):
    """A batch of clips with a question each, as the model takes them: left-padded and on the CPU."""

    features: BatchFeature
    valid: Bool[Tensor, "clips positions"]  # False on padding
    audio: Bool[Tensor, "clips positions"]  # True on audio placeholders


class AudioPrompter:
    """Turn clips and questions into model input: the half of an AudioLLM that needs no weights.

    Data loaders run it in their workers. Audio is resampled to the model's rate; what is longer than the model's
    window is cut by its feature extractor.
    """

    def __init__(self, processor: Any, audio_token_id: int) -> None:
        self.processor = processor
        self.audio_token_id = audio_token_id
        processor.tokenizer.padding_side = "left"

    @property
    def sample_rate_hz(self) -> int:
        """The rate at which the model hears."""
        return self.processor.feature_extractor.sampling_rate

    @property
    def window_s(self) -> float:
        """The longest clip that the model hears whole, in seconds."""
        return float(self.processor.feature_extractor.chunk_length)

    def __call__(self, clips: Sequence[Clip], prompts: Sequence[str] | None = None) -> AudioPrompts:
        """Put clips and questions into the chat template; without questions the user's text is empty."""
        texts = [
            self.processor.apply_chat_template(
                [{"role": "user", "content": [{"type": "audio", "audio": ""}, {"type": "text", "text": prompt}]}],
                add_generation_prompt=True,
                tokenize=False,
            )
            for prompt in prompts or [""] * len(clips)
        ]
        features = self.processor(
            text=texts,
            audio=[resample(clip.waveform, clip.sample_rate_hz, self.sample_rate_hz) for clip in clips],
            sampling_rate=self.sample_rate_hz,
            padding=True,
            return_tensors="pt",
        )
        audio = features["input_ids"] == self.audio_token_id
        return AudioPrompts(features, features["attention_mask"].bool(), audio)


class AudioLLM:
    """A model that hears: what the pipeline needs of it, and nothing else.

    ``layers`` are the decoder layers, indexed from 0; ``prompter`` makes their input.
    """

    def __init__(self, model: nn.Module, prompter: AudioPrompter, name: str) -> None:
        self.model: Any = model.eval()
        self.prompter = prompter
        self.name = name

    @property
    def layers(self) -> nn.ModuleList:
        """The decoder layers, whose outputs are the residual stream."""
        return self.model.get_decoder().layers

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    @property
    def d_in(self) -> int:
        """Width of the residual stream."""
        return self.model.config.get_text_config().hidden_size

    @torch.inference_mode()
    def capture(self, clips: Sequence[Clip] | AudioPrompts, layers: Sequence[int]) -> dict[int, list[Tensor]]:
        """Return the residual stream after each wanted layer at every clip's audio tokens, from one partial pass.

        Returns:
            Layer index to one tensor [tokens, d_in] a clip, in the model's dtype and on its device.

        Raises:
            UserError: if a layer does not exist.
        """
        for layer in layers:
            if not 0 <= layer < len(self.layers):
                raise UserError(
                    f"layer {layer} does not exist in {self.name!r}: it has layers 0 to {len(self.layers) - 1}"
                )
        batch = clips if isinstance(clips, AudioPrompts) else self.prompter(clips)
        with stop_after(self.layers, tuple(layers)) as captured:
            self.model(**batch.features.to(self.device), use_cache=False)
        audio = batch.audio.to(self.device)
        return {layer: [hidden[mask] for hidden, mask in zip(captured[layer], audio, strict=True)] for layer in layers}

    @torch.inference_mode()
    def generate(
        self, clips: Sequence[Clip] | AudioPrompts, prompts: Sequence[str] | None = None, max_new_tokens: int = 64
    ) -> list[str]:
        """Answer one question about each clip, greedily, and return the answers without special tokens."""
        batch = clips if isinstance(clips, AudioPrompts) else self.prompter(clips, prompts)
        features = batch.features.to(self.device)
        tokens = self.model.generate(**features, max_new_tokens=max_new_tokens, do_sample=False)
        new = tokens[:, features["input_ids"].shape[1] :]
        return [answer.strip() for answer in self.prompter.processor.batch_decode(new, skip_special_tokens=True)]


def load_prompter(model: str = EMBEDDED) -> AudioPrompter:
    """Load what makes a model's input, without its weights.

    Raises:
        UserError: if the folder or id cannot be loaded, or is not an AudioLLM.
    """
    with _explained(model):
        config = AutoConfig.from_pretrained(_source(model))
        if getattr(config, "audio_token_id", None) is None:
            raise UserError(
                f"model {model!r} ({config.model_type}) is no AudioLLM: it has no audio token. "
                "Give a Qwen2-Audio-class model, a local folder or a hub id"
            )
        return AudioPrompter(AutoProcessor.from_pretrained(_source(model)), config.audio_token_id)


def load_audiollm(model: str = EMBEDDED, *, device: str = "cpu", dtype: str = "auto") -> AudioLLM:
    """Load an AudioLLM from a local folder or by its hub id; ``embedded`` is the small one shipped with the package.

    Only safetensors weights are read and no code that comes with a model is run.

    Raises:
        UserError: if the folder or id cannot be loaded, or is not an AudioLLM.
    """
    prompter = load_prompter(model)
    with _explained(model):
        weights = AutoModelForMultimodalLM.from_pretrained(_source(model), dtype=dtype, use_safetensors=True)
    return AudioLLM(weights.to(device), prompter, model)


def _source(model: str) -> str:
    return str(Path(__file__).parent / "embedded") if model == EMBEDDED else model


@contextmanager
def _explained(model: str) -> Iterator[None]:
    """Turn what transformers raises over a bad folder or id into one line."""
    try:
        yield
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"model {model!r} cannot be loaded ({reason}): give a local folder or a hub id of an AudioLLM"
        ) from error
