"""Clips and questions as model input: the part of an AudioLLM that needs no weights."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.nn.functional import pad
from transformers import AutoConfig, BatchFeature

from ard.audio import resample
from ard.audiollm.encoders import LENGTH, Waveform
from ard.audiollm.families import FAMILIES, PLAIN, Family, extractor
from ard.audiollm.frames import MASKS
from ard.hub import offline_if_cached
from ard.types import Clip, UserError

EMBEDDED = "embedded"  # the small model shipped with the package

Tokens = Literal["audio", "text", "all"]
"""Which tokens of a prompt: those that stand for sound; all others but padding, which are the words of the question and
of the chat template around it, special tokens among them; or both."""


class AudioPrompts(NamedTuple):
    """A batch of clips, with a question each, as model input: left-padded and on the CPU.

    Positions are tokens; if the model is only an encoder, they are its own, with padding on the right.
    """

    features: BatchFeature
    valid: Bool[Tensor, "clips positions"]  # False on padding
    audio: Bool[Tensor, "clips positions"]  # True on audio placeholders
    num_windows: tuple[int, ...]  # of each clip; its encoder windows are consecutive in the features
    sizes: tuple[Mapping[str, tuple[int, ...]], ...]  # of each clip's own features by name, beyond the first axis

    def part(self, clips: slice) -> "AudioPrompts":
        """Return consecutive clips of the batch, without the padding that only the others needed."""
        start, stop, _ = clips.indices(len(self.valid))
        windows = slice(sum(self.num_windows[:start]), sum(self.num_windows[:stop]))
        first = int(self.valid[clips].any(dim=0).int().argmax())
        sizes, features = self.sizes[clips], {}
        for name, tensor in self.features.items():
            if name in _at_tokens(self.features):
                features[name] = tensor[clips, first:]
            else:
                own = (slice(max(lengths)) for lengths in zip(*(size[name] for size in sizes), strict=True))
                features[name] = tensor[(windows, *own)]
        valid, audio = self.valid[clips, first:], self.audio[clips, first:]
        return AudioPrompts(BatchFeature(features), valid, audio, self.num_windows[clips], sizes)


class AudioPrompter:
    """Turn clips and questions into model input.

    Data loaders run it in their workers. Audio is resampled to the model's rate and cut at its window. Every clip is
    prepared on its own before the batch is padded, so that no clip's features depend on its neighbours.

    Args:
        processor: the model's processor; for an encoder, its feature extractor.
        config: the model's configuration.
        family: what is special about the model's type.
        layers_path: module path of the layers to look at, if it is given; what positions stand for may depend on it.
        window: see :func:`~ard.audiollm.load_audiollm`.

    Attributes:
        encoder: what the input and the positions of an encoder mean; None if the model answers.
    """

    def __init__(
        self,
        processor: Any,
        config: Any,
        family: Family = PLAIN,
        *,
        layers_path: str | None = None,
        window: str | None = None,
    ) -> None:
        self.processor = processor
        self.model_type: str = config.model_type
        self.audio_token_id = audio_token_id(config)
        self._family = family
        if window not in (None, "clip"):
            raise UserError(f"window {window!r} is unknown: give 'clip', or leave it out for the whole window")
        if family.encoder is None and window == "clip":
            raise UserError(
                f"window 'clip' is only for encoders, and a {self.model_type} answers, and fills its window by itself: "
                "leave it out"
            )
        self.encoder = None if family.encoder is None else family.encoder(config, processor, layers_path, window)

    @property
    def sample_rate_hz(self) -> int:
        """The sample rate that the model takes."""
        return extractor(self.processor).sampling_rate

    @property
    def window_s(self) -> float:
        """The longest clip that the model hears whole, in seconds; longer ones are cut there."""
        if self.encoder is not None:
            return self.encoder.window_s
        if self._family.window_s is not None:
            return float(self._family.window_s)
        several: float | None = getattr(self.processor, "max_audio_len", None)  # of families that hear several windows
        one: float = getattr(extractor(self.processor), "chunk_length", 30)  # what most models hear
        return float(several or one)

    def timing(self, clip_s: float, num_tokens: int) -> tuple[int, float]:
        """Return how many of a clip's audio tokens stand for its sound, and how many seconds each stands for.

        The others come last: some processors fill clips up with silence, which has tokens too.
        """
        if self.encoder is not None:
            return num_tokens, self.encoder.token_s
        heard, shortest = min(clip_s, self.window_s), getattr(extractor(self.processor), "min_length", 0)
        multiple = self._family.filled_s
        filled = heard if multiple is None else multiple * math.ceil(heard / multiple)
        token_s = max(filled, shortest / self.sample_rate_hz) / num_tokens
        return math.ceil(heard / token_s - 1e-6), token_s

    def without_filling(self, is_audio: Bool[Tensor, " tokens"], clip_s: float) -> Bool[Tensor, " tokens"]:
        """Return which tokens of a clip's prompt to keep: all but the audio tokens of silence behind its sound."""
        num_audio = int(is_audio.sum())
        num_heard = self.timing(clip_s, num_audio)[0] if num_audio else 0
        return ~is_audio | (is_audio.cumsum(dim=0) <= num_heard)

    def __call__(self, clips: Sequence[Clip], prompts: Sequence[str] | None = None) -> AudioPrompts:
        """Put clips and questions into the model's chat template; without questions the user's text is empty.

        Raises:
            UserError: if a question holds a special token, or the model's type is untested and its processor cannot be
                called like others.
        """
        pairs = list(zip(clips, prompts or [""] * len(clips), strict=True))
        for prompt in {prompt for _, prompt in pairs}:
            self._refuse_special_tokens(prompt)
        if self.encoder is not None:
            return self._heard([self.encoder.prepare(self._waveform(clip)) for clip in clips])
        try:
            rows = [self._family.prepare(self.processor, self._waveform(clip), prompt) for clip, prompt in pairs]
        except (AttributeError, TypeError, ValueError) as error:
            if self.model_type in FAMILIES:
                raise
            raise UserError(
                f"models of type {self.model_type!r} are not supported: their processor does not take a clip and a "
                f"text as others do ({error}). Supported: {', '.join(FAMILIES)}"
            ) from error
        num_windows = tuple(len(row[extractor(self.processor).model_input_names[0]]) for row in rows)
        beyond = 0.0 if self._family.lone_encoder is None else math.nan
        features = _padded(rows, self.processor.tokenizer.pad_token_id, beyond)
        valid = features["attention_mask"].bool()
        audio = (features["input_ids"] == self.audio_token_id) & valid
        return AudioPrompts(features, valid, audio, num_windows, _sizes(rows))

    def _heard(self, rows: Sequence[BatchFeature]) -> AudioPrompts:
        """Return a batch for an encoder."""
        features = _padded(rows, pad_token_id=0)
        valid, audio = self.heard_positions(features)
        return AudioPrompts(features, valid, audio, (1,) * len(rows), _sizes(rows))

    def heard_positions(
        self, features: Mapping[str, Any]
    ) -> tuple[Bool[Tensor, "clips positions"], Bool[Tensor, "clips positions"]]:
        """Return where an encoder's positions are no padding, and where they stand for sound."""
        assert self.encoder is not None
        lengths = features[LENGTH]
        moments = self.encoder.moments(features).to(lengths.device)
        valid = moments < self.encoder.num_moments(lengths)[:, None]
        return valid, valid & (moments >= 0)

    def _refuse_special_tokens(self, prompt: str) -> None:
        """Refuse a question that would add an audio token to the prompt or end the user's turn."""
        added = getattr(getattr(self.processor, "tokenizer", None), "added_tokens_decoder", None)
        tokens = added.values() if isinstance(added, Mapping) else []  # mistral-common itself reads them as plain text
        specials = [token.content for token in tokens if token.special and token.content and token.content in prompt]
        if specials:
            raise UserError(
                f"the question {prompt!r} holds {max(specials, key=len)!r}, which is a special token of the model: "
                "ask without it"
            )

    def _waveform(self, clip: Clip) -> Waveform:
        """Return the samples that the model hears of a clip."""
        waveform = resample(clip.waveform, clip.sample_rate_hz, self.sample_rate_hz)
        longest = self.window_s * self.sample_rate_hz
        return waveform if len(waveform) <= longest else waveform[: int(longest)]


def where(
    tokens: Tokens, valid: Bool[Tensor, "*clips positions"], audio: Bool[Tensor, "*clips positions"]
) -> Bool[Tensor, "*clips positions"]:
    """Return where the tokens of a kind are, from where no padding is and where audio is."""
    return {"audio": audio, "text": valid & ~audio, "all": valid}[tokens]


def audio_token_id(config: Any) -> int | None:
    """Return the id of the audio placeholder; None if the model has none."""
    ids = (getattr(place, "audio_token_id", None) for place in (config, getattr(config, "audio_config", None)))
    return next((number for number in ids if number is not None), None)


def frame_mask(features: Mapping[str, Any]) -> Bool[Tensor, "clips frames"] | None:
    """Return which frames of an AudioLLM's Whisper-like encoder are sound; None if the features do not tell.

    The feature extractor's mask counts mel frames; the encoder's convolution takes every second one.
    """
    mask = next((features[name] for name in MASKS if features.get(name) is not None), None)
    return None if mask is None else mask[:, ::2].bool()


def _padded(rows: Sequence[BatchFeature], pad_token_id: int, beyond: float = 0.0) -> BatchFeature:
    """Join the inputs of single clips: values at tokens are padded on the left, all others on the right.

    ``beyond`` fills features beyond a clip's end.
    """
    at_tokens = _at_tokens(rows[0])
    joined = {}
    for name in rows[0]:
        tensors = [torch.as_tensor(row[name]) for row in rows]
        value = pad_token_id if name == "input_ids" else beyond if tensors[0].is_floating_point() else 0
        sizes = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
        joined[name] = torch.cat([_filled(tensor, sizes, value, left=name in at_tokens) for tensor in tensors])
    return BatchFeature(joined)


def _sizes(rows: Sequence[BatchFeature]) -> tuple[Mapping[str, tuple[int, ...]], ...]:
    """Return the sizes of each row's tensors, beyond the first axis."""
    return tuple({name: tuple(torch.as_tensor(value).shape[1:]) for name, value in row.items()} for row in rows)


def _at_tokens(features: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the inputs that have one value for each token; an encoder has none."""
    return ("input_ids", "attention_mask", "token_type_ids") if "input_ids" in features else ()


def _filled(tensor: Tensor, sizes: Sequence[int], value: int | float, *, left: bool) -> Tensor:
    gaps = [size - have for size, have in zip(sizes, tensor.shape[1:], strict=True)]
    return pad(tensor, [side for gap in reversed(gaps) for side in ((gap, 0) if left else (0, gap))], value=value)


def load_config(model: str) -> Any:
    """Load a model's configuration; for a model that also speaks, that of its thinker, the part that hears.

    Raises:
        UserError: if the folder or id cannot be loaded.
    """
    with explained(model):
        config = AutoConfig.from_pretrained(source(model))
    return getattr(config, "thinker_config", config)


def only_hears(model: str) -> bool:
    """Return whether a model is an encoder, which cannot answer, as far as files on this machine tell."""
    if model == EMBEDDED:
        return False
    try:
        config = AutoConfig.from_pretrained(model, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError):
        return False
    return FAMILIES.get(config.model_type, PLAIN).encoder is not None


def load_prompter(model: str = EMBEDDED, *, layers_path: str | None = None, window: str | None = None) -> AudioPrompter:
    """Load the part that makes a model's input, without the weights; for the arguments see ``load_audiollm``.

    Raises:
        UserError: if the folder or id cannot be loaded, the model takes no audio, or it has no such window.
    """
    config = load_config(model)
    family = FAMILIES.get(config.model_type, PLAIN)
    if audio_token_id(config) is None and config.model_type not in FAMILIES:
        raise UserError(
            f"model {model!r} ({config.model_type}) is neither an AudioLLM, which has an audio token, nor an encoder. "
            f"Give a folder or hub id of one of the supported types: {', '.join(FAMILIES)}"
        )
    with explained(model):
        processor = family.processor_class.from_pretrained(source(model))
    return AudioPrompter(processor, config, family, layers_path=layers_path, window=window)


def source(model: str) -> str:
    """Return the folder or hub id that a model's name stands for."""
    return str(Path(__file__).parent / "embedded") if model == EMBEDDED else model


@contextmanager
def explained(model: str) -> Iterator[None]:
    """Turn transformers' errors about a bad folder or id, or about a missing package, into one line.

    A model that is in the hub's cache is loaded without asking the hub.
    """
    try:
        with offline_if_cached(model):
            yield
    except (OSError, ValueError, KeyError, ImportError, UnpicklingError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"model {model!r} cannot be loaded ({reason}): give a local folder or a hub id of an AudioLLM or of an "
            "audio encoder"
        ) from error
