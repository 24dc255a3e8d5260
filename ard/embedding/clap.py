"""CLAP: audio and text into one space, on the unit sphere, by whichever implementation a checkpoint belongs to."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn.functional import normalize
from transformers import ClapModel, ClapProcessor

from ard.audio import resample
from ard.audiollm import widen_on_cpu
from ard.results import write_json
from ard.types import Clip, UserError

EMBEDDED = "embedded"  # the small model that is shipped with the package
LAION = "laion:"  # before the name or path of one of LAION's own checkpoints
COMPUTED = "computed:"  # before a folder of embeddings that were computed elsewhere
TEXTS_PER_BATCH = 256
Waveform = Float[np.ndarray, " _"]


class Clap(ABC):
    """Embed audio and text; cosines of what comes out are the similarities of Eq. 3 and of the matching in Sec. 4.

    Deterministic. Texts go in as they are, without a template, on both sides of every comparison.

    Attributes:
        name: what :func:`load_clap` was given.
        d: the size of the space.
    """

    name: str
    d: int

    def __init__(self) -> None:
        self._texts: dict[str, Tensor] = {}

    @abstractmethod
    def audio(self, clips: Sequence[Clip]) -> Float[Tensor, "clips d"]:
        """Return one unit vector a clip."""

    @abstractmethod
    def _read(self, texts: Sequence[str]) -> Float[Tensor, "texts d"]:
        """Embed at least one text."""

    @torch.inference_mode()
    def text(self, texts: Sequence[str]) -> Float[Tensor, "texts d"]:
        """Return one unit vector a text; every text is computed once in the life of this object."""
        new = [text for text in dict.fromkeys(texts) if text not in self._texts]
        if new:
            self._texts.update(zip(new, normalize(self._read(new).float().cpu(), dim=-1), strict=True))
        return torch.stack([self._texts[text] for text in texts]) if texts else torch.empty(0, self.d)


@torch.inference_mode()
def mean_of_windows(
    hear: Callable[[list[Waveform]], Float[Tensor, "windows d"]],
    clips: Sequence[Clip],
    sample_rate_hz: int,
    window_s: float,
) -> Float[Tensor, "clips d"]:
    """Embed clips of any length by a model that hears a window at once: one unit vector a clip.

    A clip longer than a window is cut into equal windows, and the embeddings of these are averaged, where the
    implementations themselves would crop at random.
    """
    longest = int(window_s * sample_rate_hz)
    windows, clip_of_window = [], []
    for index, clip in enumerate(clips):
        waveform = resample(clip.waveform, clip.sample_rate_hz, sample_rate_hz)
        pieces = np.array_split(waveform, max(1, -(-len(waveform) // longest)))
        windows += pieces
        clip_of_window += [index] * len(pieces)
    embedded = hear(windows).float().cpu()
    total = embedded.new_zeros(len(clips), embedded.shape[1]).index_add_(0, torch.tensor(clip_of_window), embedded)
    return normalize(total, dim=-1)


class TransformersClap(Clap):
    """CLAP as transformers has it: the embedded model, ``laion/larger_clap_general`` and their like."""

    def __init__(self, model: ClapModel, processor: ClapProcessor, name: str) -> None:
        super().__init__()
        self.model: Any = model.eval()
        self.processor: Any = processor
        self.name = name
        self.d = self.model.config.projection_dim

    def audio(self, clips: Sequence[Clip]) -> Float[Tensor, "clips d"]:
        """Return one unit vector a clip."""
        extractor = self.processor.feature_extractor
        return mean_of_windows(self._hear, clips, extractor.sampling_rate, float(extractor.max_length_s))

    def _hear(self, windows: list[Waveform]) -> Float[Tensor, "windows d"]:
        rate_hz = self.processor.feature_extractor.sampling_rate
        features = self.processor(audio=windows, sampling_rate=rate_hz, return_tensors="pt")
        if "is_longer" in features:  # a "fusion" model's feature extractor marks one at random where none is
            features["is_longer"] = torch.zeros_like(features["is_longer"])
        return self.model.get_audio_features(**features.to(self.model.device)).pooler_output

    def _read(self, texts: Sequence[str]) -> Float[Tensor, "texts d"]:
        found = []
        for start in range(0, len(texts), TEXTS_PER_BATCH):
            batch = list(texts[start : start + TEXTS_PER_BATCH])
            tokens = self.processor(text=batch, padding=True, truncation=True, return_tensors="pt")
            found.append(self.model.get_text_features(**tokens.to(self.model.device)).pooler_output)
        return torch.cat(found)


class ComputedClap(Clap):
    """Embeddings that were computed elsewhere, by a model that cannot live beside transformers 5.

    They lie in ``clips.safetensors`` and ``texts.safetensors``: ``embeddings``, a row for each of the ids or texts that
    the metadata lists as JSON under ``names``. Texts that are asked for and are not there are written to
    ``missing.json``, for whatever computes them.

    Raises:
        UserError: if a file, a clip or a text is missing.
    """

    def __init__(self, folder: Path, name: str) -> None:
        super().__init__()
        self.folder, self.name = folder, name
        self._clips = self._load("clips")
        self.d = next(iter(self._clips.values())).shape[0]

    def audio(self, clips: Sequence[Clip]) -> Float[Tensor, "clips d"]:
        """Return one unit vector a clip."""
        self._refuse_if([clip.id for clip in clips if clip.id not in self._clips], "clips")
        return normalize(torch.stack([self._clips[clip.id] for clip in clips]), dim=-1)

    def _read(self, texts: Sequence[str]) -> Float[Tensor, "texts d"]:
        known = self._load("texts") if (self.folder / "texts.safetensors").is_file() else {}
        missing = [text for text in texts if text not in known]
        if missing:
            write_json(self.folder / "missing.json", {"texts": missing})
        self._refuse_if(missing, "texts")
        return torch.stack([known[text] for text in texts])

    def _load(self, kind: str) -> dict[str, Tensor]:
        path = self.folder / f"{kind}.safetensors"
        try:
            with safe_open(path, framework="pt") as stored:
                names, embeddings = json.loads(stored.metadata()["names"]), stored.get_tensor("embeddings").float()
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"CLAP model {self.name!r}: {str(path)!r} cannot be read ({reason}): "
                "compute it, as experiments/msclap does"
            ) from error
        return dict(zip(names, embeddings, strict=True))

    def _refuse_if(self, missing: Sequence[str], kind: str) -> None:
        if missing:
            raise UserError(
                f"CLAP model {self.name!r} lacks {len(missing)} {kind} ({missing[0]!r}): compute them, as "
                "experiments/msclap does, and run the same command again"
            )


def load_clap(model: str = EMBEDDED, *, device: str = "cpu") -> Clap:
    """Load a CLAP model.

    Args:
        model: ``embedded`` is the small one shipped with the package; a local folder or hub id is loaded by
            transformers; ``laion:NAME`` is one of LAION's own checkpoints, a file or a name such as
            ``laion:630k-audioset-best.pt``, run by their package (the extra ``laion-clap``); ``computed:FOLDER`` are
            embeddings that were computed elsewhere, such as by experiments/msclap.
        device: where it runs.

    Raises:
        UserError: if it cannot be loaded as a CLAP model.
    """
    if model.startswith(LAION):
        from ard.embedding.laion import load_laion_clap  # an optional package

        return load_laion_clap(model.removeprefix(LAION), model, device)
    if model.startswith(COMPUTED):
        return ComputedClap(Path(model.removeprefix(COMPUTED)), model)
    source = str(Path(__file__).parent / "embedded") if model == EMBEDDED else model
    try:
        weights: Any = ClapModel.from_pretrained(source, use_safetensors=True)
        processor = ClapProcessor.from_pretrained(source)
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"CLAP model {model!r} cannot be loaded ({reason}): give a local folder or a hub id") from error
    widen_on_cpu(weights.to(device), f"CLAP model {model!r}")
    return TransformersClap(weights, processor, model)
