"""CLAP: audio and text in one space, on the unit sphere, by the implementation that a checkpoint belongs to."""

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn.functional import normalize
from transformers import ClapModel, ClapProcessor

from ard.audiollm import widen_on_cpu
from ard.console import at_work
from ard.embedding.base import TEXTS_PER_BATCH, Clap, Waveform, mean_of_windows
from ard.embedding.laion import load_laion_clap
from ard.hub import offline_if_cached
from ard.results import write_json
from ard.types import Clip, UserError

EMBEDDED = "embedded"  # the small model shipped with the package
LAION = "laion:"  # prefix of the name or path of one of LAION's own checkpoints
COMPUTED = "computed:"  # prefix of a folder of embeddings computed elsewhere


class TransformersClap(Clap):
    """CLAP by transformers: the embedded model, ``laion/larger_clap_general`` and the like."""

    def __init__(self, model: ClapModel, processor: ClapProcessor, name: str) -> None:
        super().__init__()
        self.model: Any = model.eval()
        self.processor: Any = processor
        self.name = name
        self.d = self.model.config.projection_dim

    def audio(self, clips: Sequence[Clip]) -> Float[Tensor, "clips d"]:
        """Return one unit vector for each clip."""
        extractor = self.processor.feature_extractor
        return mean_of_windows(self._hear, clips, extractor.sampling_rate, float(extractor.max_length_s))

    def _hear(self, windows: list[Waveform]) -> Float[Tensor, "windows d"]:
        rate_hz = self.processor.feature_extractor.sampling_rate
        features = self.processor(audio=windows, sampling_rate=rate_hz, return_tensors="pt")
        if "is_longer" in features:  # a "fusion" model's feature extractor marks a random clip if none is
            features["is_longer"] = torch.zeros_like(features["is_longer"])
        return self.model.get_audio_features(**features.to(self.model.device)).pooler_output

    def _read(self, texts: Sequence[str]) -> Float[Tensor, "texts d"]:
        embeddings = []
        for start in range(0, len(texts), TEXTS_PER_BATCH):
            batch = list(texts[start : start + TEXTS_PER_BATCH])
            tokens = self.processor(text=batch, padding=True, truncation=True, return_tensors="pt")
            embeddings.append(self.model.get_text_features(**tokens.to(self.model.device)).pooler_output)
        return torch.cat(embeddings)


class ComputedClap(Clap):
    """Embeddings computed elsewhere, by a model that cannot be installed beside transformers 5.

    They are in ``clips.safetensors`` and ``texts.safetensors``: ``embeddings``, with one row for each id or text that
    the metadata lists as JSON under ``names``. Requested texts that are missing are written to ``missing.json``, for
    the program that computes them.

    Raises:
        UserError: if a file, a clip or a text is missing.
    """

    def __init__(self, folder: Path, name: str) -> None:
        super().__init__()
        self.folder, self.name = folder, name
        self._clips = self._load("clips")
        self.d = next(iter(self._clips.values())).shape[0]

    def audio(self, clips: Sequence[Clip]) -> Float[Tensor, "clips d"]:
        """Return one unit vector for each clip."""
        self._refuse_if([clip.id for clip in clips if clip.id not in self._clips], "clips")
        return normalize(torch.stack([self._clips[clip.id] for clip in clips]), dim=-1)

    def _read(self, texts: Sequence[str]) -> Float[Tensor, "texts d"]:
        embeddings = self._load("texts") if (self.folder / "texts.safetensors").is_file() else {}
        missing = [text for text in texts if text not in embeddings]
        if missing:
            write_json(self.folder / "missing.json", {"texts": missing})
        self._refuse_if(missing, "texts")
        return torch.stack([embeddings[text] for text in texts])

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
    """Load a CLAP model. The last one loaded stays in memory, so that all stages of a run share it and its texts.

    Args:
        model: ``embedded`` is the small one shipped with the package; a local folder or hub id is loaded by
            transformers; ``laion:NAME`` is one of LAION's own checkpoints, a file or a name such as
            ``laion:630k-audioset-best.pt``, run by their package (the extra ``laion-clap``); ``computed:FOLDER`` holds
            embeddings computed elsewhere, by experiments/msclap for example.
        device: device to run on.

    Raises:
        UserError: if it cannot be loaded as a CLAP model.
    """
    return _load(model, device)


@lru_cache(maxsize=1)  # a run has one CLAP model; a second would only fill the memory
def _load(model: str, device: str) -> Clap:
    if model.startswith(LAION):
        return load_laion_clap(model.removeprefix(LAION), model, device)
    if model.startswith(COMPUTED):
        return ComputedClap(Path(model.removeprefix(COMPUTED)), model)
    source = str(Path(__file__).parent / "embedded") if model == EMBEDDED else model
    try:
        with at_work(f"loading {model}"), offline_if_cached(model):
            weights: Any = ClapModel.from_pretrained(source)
            processor = ClapProcessor.from_pretrained(source)
    except (OSError, ValueError, KeyError, UnpicklingError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"CLAP model {model!r} cannot be loaded ({reason}): give a local folder or a hub id") from error
    widen_on_cpu(weights.to(device), f"CLAP model {model!r}")
    return TransformersClap(weights, processor, model)
