"""Audio encoders, which hear and cannot answer: how they are given a clip, and what their positions stand for."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import BatchFeature

from ard.audiollm.frames import shortened
from ard.types import UserError

Waveform = Float[np.ndarray, " samples"]
LENGTH = "num_samples"  # the entry of an encoder's input that says how long each clip is; its network does not see it
FRAME_S = 0.01  # from one mel frame of AST to the next; each is 25 ms long
LAYERS = (
    *("WhisperEncoderLayer", "Wav2Vec2EncoderLayer", "HubertEncoderLayer", "WavLMEncoderLayer"),
    *("ASTLayer", "ClapAudioLayer"),
)
"""How the names of the classes begin whose output is the residual stream of an encoder."""


class Encoder(ABC):
    """How one type of encoders is given a clip, and which of its positions stand for which moment of it.

    A moment is a step of time. A position stands for a moment or, where an encoder takes a spectrogram for a picture,
    for one frequency band of it.

    Args:
        config: the model's configuration.
        extractor: its feature extractor.
        layers_path: module path of the layers, if given.
        window: ``clip`` leaves the padding of a clip out, see :func:`~ard.audiollm.load_audiollm`.

    Raises:
        UserError: if the model has no padding that could be left out.
    """

    fills = False  # whether a clip is padded to the whole window, of which a part alone can be computed

    def __init__(self, config: Any, extractor: Any, layers_path: str | None = None, window: str | None = None) -> None:
        self.config, self.extractor, self.layers_path = config, extractor, layers_path
        self.cuts = window == "clip"
        if self.cuts and not self.fills:
            raise UserError(
                f"window 'clip' is only for encoders that compute padding as sound (Whisper, AST), and this is a "
                f"{config.model_type}: leave it out"
            )

    @property
    def window_s(self) -> float:
        """The longest clip that is heard whole, in seconds."""
        return 30.0

    @property
    def alone(self) -> bool:
        """Whether each clip of a batch is computed on its own, since its result would depend on the others' lengths."""
        return self.cuts

    @property
    def d_in(self) -> int:
        """Width of the residual stream."""
        return int(self.config.hidden_size)

    @property
    @abstractmethod
    def token_s(self) -> float:
        """How many seconds of sound one token adds: the time between moments, over the bands of each."""

    @abstractmethod
    def num_moments(self, num_samples: Int[Tensor, " clips"]) -> Int[Tensor, " clips"]:
        """Return how many moments hold sound."""

    @abstractmethod
    def moments(self, features: Any) -> Int[Tensor, " positions"]:
        """Return the moment of every position, from the network's input; -1 where one stands for none."""

    @abstractmethod
    def prepare(self, waveform: Waveform) -> BatchFeature:
        """Return one clip as the network's input."""

    @contextmanager
    def fitted(self, network: Any, features: Any) -> Iterator[None]:
        """Let the network accept a clip that was cut; does nothing where none is."""
        yield

    def _extracted(self, waveform: Waveform, shortest: int = 0, **options: Any) -> BatchFeature:
        """Extract features; a clip of fewer samples than the network can take gets silence behind it."""
        padded = np.pad(waveform, (0, max(0, shortest - len(waveform))))
        rate_hz = self.extractor.sampling_rate
        features = self.extractor(padded, sampling_rate=rate_hz, return_tensors="pt", **options)
        return BatchFeature({**features, LENGTH: torch.tensor([len(padded)])})


class WhisperEncoder(Encoder):
    """Whisper's: log-mel frames of the whole window, two for each position; padding is part of what it computes."""

    fills = True

    @property
    def window_s(self) -> float:
        """The window of the feature extractor: 30 s of all that were published."""
        return float(self.extractor.chunk_length)

    @property
    def token_s(self) -> float:
        """Two mel frames: 20 ms."""
        return 2 * self.extractor.hop_length / self.extractor.sampling_rate

    def num_moments(self, num_samples: Int[Tensor, " clips"]) -> Int[Tensor, " clips"]:
        """Count pairs of mel frames, the last of which may be half filled."""
        return -(-num_samples // (2 * self.extractor.hop_length))

    def moments(self, features: Any) -> Int[Tensor, " positions"]:
        """Number all positions of the window, or of the clip where it was cut."""
        return torch.arange(features["input_features"].shape[-1] // 2)

    def prepare(self, waveform: Waveform) -> BatchFeature:
        """Extract the window, and cut it after the clip if asked."""
        features = self._extracted(waveform)
        if self.cuts:
            features["input_features"] = features["input_features"][..., : 2 * int(self.num_moments(features[LENGTH]))]
        return features

    @contextmanager
    def fitted(self, network: Any, features: Any) -> Iterator[None]:
        """Give the network as many positions as a cut clip has frames: the first ones."""
        if not self.cuts:
            yield
            return
        with shortened(network, features["input_features"].shape[-1] // 2):
            yield


class WaveformEncoder(Encoder):
    """Those of wav2vec 2.0, HuBERT and WavLM: convolutions over samples, then frames as long as the clip.

    Padding is masked where the convolutions normalise frame by frame. Where they normalise over the whole clip
    (``feat_extract_norm`` is ``group``), transformers says to pass no mask, and padding changes every frame: there each
    clip is computed on its own, as it is where a batch norm precedes the convolution of positions.
    """

    @property
    def alone(self) -> bool:
        """Whether a norm would read the padding of other clips."""
        return self.config.feat_extract_norm == "group" or getattr(self.config, "conv_pos_batch_norm", False)

    @property
    def token_s(self) -> float:
        """The strides of all convolutions: 20 ms."""
        return math.prod(self.config.conv_stride) / self.extractor.sampling_rate

    def num_moments(self, num_samples: Int[Tensor, " clips"]) -> Int[Tensor, " clips"]:
        """Count the frames that the convolutions give."""
        for kernel, stride in zip(self.config.conv_kernel, self.config.conv_stride, strict=True):
            num_samples = (num_samples - kernel) // stride + 1
        return num_samples

    def moments(self, features: Any) -> Int[Tensor, " positions"]:
        """Number the frames of the longest clip."""
        return torch.arange(int(self.num_moments(torch.tensor([features["input_values"].shape[-1]]))))

    def prepare(self, waveform: Waveform) -> BatchFeature:
        """Normalise the samples, with a mask where the model was trained with one."""
        shortest = 1  # of samples that give one frame
        for kernel, stride in zip(self.config.conv_kernel[::-1], self.config.conv_stride[::-1], strict=True):
            shortest = (shortest - 1) * stride + kernel
        return self._extracted(waveform, shortest, return_attention_mask=not self.alone)


class SpectrogramTransformer(Encoder):
    """AST: patches of a log-mel spectrogram, in rows of one frequency band, behind two tokens of the whole clip.

    Padding up to the window is part of what it computes.
    """

    fills = True

    @property
    def window_s(self) -> float:
        """The frames of the feature extractor: 10.24 s of all that were published."""
        return self.config.max_length * FRAME_S

    @property
    def token_s(self) -> float:
        """The stride of the patches in time, 0.1 s, over the bands."""
        return self.config.time_stride * FRAME_S / self._bands

    @property
    def _bands(self) -> int:
        return (self.config.num_mel_bins - self.config.patch_size) // self.config.frequency_stride + 1

    def _columns(self, num_frames: int) -> int:
        return (num_frames - self.config.patch_size) // self.config.time_stride + 1

    def num_moments(self, num_samples: Int[Tensor, " clips"]) -> Int[Tensor, " clips"]:
        """Count the columns of patches that begin on a frame of sound."""
        rate_hz = self.extractor.sampling_rate
        num_frames = (num_samples - round(2.5 * FRAME_S * rate_hz)) // round(FRAME_S * rate_hz) + 1  # of 25 ms
        return (-(-num_frames // self.config.time_stride)).clamp(max=self._columns(self.config.max_length))

    def moments(self, features: Any) -> Int[Tensor, " positions"]:
        """Number the columns, row by row."""
        columns = torch.arange(self._columns(features["input_values"].shape[1]))
        return torch.cat([torch.tensor([-1, -1]), columns.repeat(self._bands)])

    def prepare(self, waveform: Waveform) -> BatchFeature:
        """Extract the window, and cut it after the clip's last patch if asked."""
        features = self._extracted(waveform, round(2.5 * FRAME_S * self.extractor.sampling_rate))
        if self.cuts:
            needed = (int(self.num_moments(features[LENGTH])) - 1) * self.config.time_stride + self.config.patch_size
            features["input_values"] = features["input_values"][:, :needed]
        return features

    @contextmanager
    def fitted(self, network: Any, features: Any) -> Iterator[None]:
        """Give the network the positions of the columns that a cut clip has."""
        if not self.cuts:
            yield
            return
        embeddings = network.embeddings
        whole, columns = embeddings.position_embeddings, self._columns(features["input_values"].shape[1])
        of_patches = whole[:, 2:].unflatten(1, (self._bands, -1))[:, :, :columns].flatten(1, 2)
        embeddings.position_embeddings = nn.Parameter(torch.cat([whole[:, :2], of_patches], dim=1), False)
        try:
            yield
        finally:
            embeddings.position_embeddings = whole


class ClapEncoder(Encoder):
    """CLAP's audio tower (HTS-AT): a spectrogram, cut into a few pieces one below the other, as a square picture.

    Stages halve the picture's sides, and the layers of one stage are one list. A clip shorter than the window is
    repeated until the window is full; of its tokens only those of its first time count.
    """

    def __init__(self, config: Any, extractor: Any, layers_path: str | None = None, window: str | None = None) -> None:
        super().__init__(config, extractor, layers_path, window)
        self._audio = getattr(config, "audio_config", config)
        depths = self._audio.depths
        named = [int(part) for part in (layers_path or "").split(".") if part.isdigit()]
        longest = max(range(len(depths)), key=lambda stage: (depths[stage], stage))
        self._stage = min(named[0], len(depths) - 1) if named else longest

    @property
    def window_s(self) -> float:
        """The window of the feature extractor: 10 s of all that were published."""
        return float(self.extractor.max_length_s)

    @property
    def d_in(self) -> int:
        """The width of the stage, which doubles from one to the next."""
        return int(self._audio.patch_embeds_hidden_size * 2**self._stage)

    @property
    def _side(self) -> int:
        """Positions along a side of the picture."""
        side = self._audio.spec_size // np.atleast_1d(self._audio.patch_stride)[0]
        return int(side) // 2**self._stage

    @property
    def _pieces(self) -> int:
        return int(self._audio.spec_size // self._audio.num_mel_bins)

    @property
    def token_s(self) -> float:
        """The window over all positions of the picture."""
        return self.window_s / self._side**2

    def num_moments(self, num_samples: Int[Tensor, " clips"]) -> Int[Tensor, " clips"]:
        """Count the columns of all pieces that begin within the clip."""
        num_moments = self._pieces * self._side
        return -(-num_samples * num_moments // self.extractor.nb_max_samples)

    def moments(self, features: Any) -> Int[Tensor, " positions"]:
        """Number the columns of each piece after those of the pieces before."""
        piece = torch.arange(self._side) // (self._side // self._pieces)
        return (piece[:, None] * self._side + torch.arange(self._side)).flatten()

    def prepare(self, waveform: Waveform) -> BatchFeature:
        """Extract the window, without the long clips of a "fusion" model, which none is."""
        features = self._extracted(waveform)
        features["is_longer"] = torch.zeros_like(features["is_longer"])  # the extractor may mark one at random
        return features


def encoder_layers(network: nn.Module) -> dict[str, nn.ModuleList]:
    """Return the lists of an encoder's layers, by their module paths."""
    lists = {path: module for path, module in network.named_modules() if isinstance(module, nn.ModuleList)}
    return {path: one for path, one in lists.items() if type(next(iter(one), None)).__name__.startswith(LAYERS)}
