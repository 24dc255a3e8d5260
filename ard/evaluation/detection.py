"""Whether a name tells where its feature fires, on clips that the naming never saw."""

import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import torch
from jaxtyping import Bool, Float, Int
from lightning import Callback, LightningModule, Trainer
from safetensors.torch import load_file
from torch import Tensor

from ard.activations import ActivationDataModule, read_manifest, write_parquet
from ard.embedding import EMBEDDED, embed_clips, load_clap
from ard.evaluation.functional import paired_auroc
from ard.monosemanticity import Selection, read_selections
from ard.naming import CONCEPTS, read_names
from ard.representatives import clip_scores
from ard.results import Figure, Result, Row
from ard.sae import Encoding


class _Unseen(NamedTuple):
    """Clips that the naming never saw, and which of the selected features fire in them."""

    rows: Int[Tensor, " clips"]  # in the manifest of their activations
    fires: Bool[Tensor, "clips concepts"]


class DetectConcepts(Callback):
    """Write ``detection.json``, and ``detection`` and ``n_active_unseen`` into ``concepts.parquet``.

    On clips that the naming never saw: does the CLAP cosine of clip and name predict that the feature fires? A
    concept's figure is the AUROC of that prediction. A second row has every name given to another concept: what a name
    scores that knows nothing of its concept. Concepts without a name, and those that fire in no clip or in all, have no
    figure and are counted.

    The clips are the evaluation set; where there is none, those of the probing set that are in no named concept's H^k.
    They are read once more when the features are selected, so that memory grows with clips and concepts, and not with
    the size of the dictionary.

    Args:
        out: folder of this dictionary's results.
        audio: folder of the audio shards of those clips.
        embeddings: where their embeddings are kept.
        clap: the CLAP model.
        activity: a feature fires in a clip whose score reaches this share of the score of the weakest clip in H^k; 0
            takes every clip whose score is positive.
        seed: of the shuffle and the bootstrap.
    """

    def __init__(
        self, out: Path, *, audio: Path, embeddings: Path, clap: str = EMBEDDED, activity: float = 0.0, seed: int = 0
    ) -> None:
        self.out, self.audio, self.embeddings = Path(out), Path(audio), Path(embeddings)
        self.clap, self.activity, self.seed = clap, activity, seed

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See that all clips are at hand."""
        assert isinstance(pl_module, Encoding)
        pl_module.refuse_ranks()

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen to the clips again, compare, write."""
        assert isinstance(pl_module, Encoding)
        if not trainer.is_global_zero:
            return
        started = time.monotonic()
        data = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, ActivationDataModule)
        selection, names = read_selections(self.out)["ard"][0], read_names(self.out)["ard"][0]
        has_name = torch.tensor([name is not None for name in names], dtype=torch.bool)
        unseen = self._listen(data, pl_module, selection)
        clap = load_clap(self.clap, device=str(pl_module.device))
        clip_ids = read_manifest(data.evaluation or data.activations).clip_ids
        clips = embed_clips(clap, self.audio, clip_ids, self.embeddings)[unseen.rows]
        similarity = (clips @ clap.text([name for name in names if name is not None]).T).numpy()
        fires = unseen.fires[:, has_name].numpy()
        own = paired_auroc(similarity, fires)
        others = paired_auroc(similarity[:, self._shuffled(fires.shape[1])], fires)
        known = ~np.isnan(own)
        row, shuffled = (
            Row(method, data.layer, pl_module.expansion, {"auroc": self._figure(areas[known])})
            for method, areas in ((pl_module.method, own), (f"{pl_module.method}, names shuffled", others))
        )
        choices = {
            "clips": "the evaluation set"
            if data.evaluation
            else "clips of the probing set that are in no concept's H^k",
            "fires": "score above 0" if not self.activity else "score from a share of the weakest clip in H^k on",
            "activity": self.activity,
            "similarity": f"audio-text cosine of CLAP {self.clap!r}, no template",
        }
        details = {
            "num_clips": len(unseen.rows),
            "num_concepts": len(names),
            "num_without_name": int((~has_name).sum()),
            "num_fire_never_or_always": int((~known).sum()),
        }
        seconds = time.monotonic() - started
        result = Result("detection", (row, shuffled.as_control()), choices, self.seed, seconds, details)
        result.save(self.out / "detection.json")
        detection = torch.full((len(names),), torch.nan)
        detection[has_name] = torch.from_numpy(own).float()
        self._add_to_concepts(selection.features, detection, unseen.fires.sum(dim=0))
        pl_module.log("detection/auroc", row.figures["auroc"].value)

    @torch.inference_mode()
    def _listen(self, data: ActivationDataModule, module: Encoding, selection: Selection) -> _Unseen:
        """Find where the selected features fire."""
        weakest = load_file(self.out / "representatives.safetensors")["ard/top_scores"][selection.features, -1]
        least = (self.activity * weakest).to(module.device)
        features = selection.features.to(module.device)
        seen = set() if data.evaluation else set(selection.top_ids.flatten().tolist())
        rows, fires = [torch.empty(0, dtype=torch.int64)], [torch.empty(0, len(features), dtype=torch.bool)]
        for batch in data.test_dataloader()[-1]:
            codes = module.coder.encode(batch.x.to(module.device))
            place = batch.clip_of_token.to(module.device)
            scores = clip_scores(codes, place, len(batch.rows), module.coder.d_sae).ard[:, features]
            kept = torch.tensor([row not in seen for row in batch.rows.tolist()], dtype=torch.bool)
            rows.append(batch.rows[kept])
            fires.append(((scores > 0) & (scores >= least)).cpu()[kept])
        return _Unseen(torch.cat(rows), torch.cat(fires))

    def _shuffled(self, count: int) -> Int[np.ndarray, " concepts"]:
        """Return for each concept another one, where there is one."""
        order = np.random.default_rng(self.seed).permutation(count)
        shuffled = np.empty(count, dtype=np.int64)
        shuffled[order] = np.roll(order, 1)
        return shuffled

    def _figure(self, areas: Float[np.ndarray, " concepts"]) -> Figure:
        return Figure.estimate(areas, np.mean, "AUROC", seed=self.seed)

    def _add_to_concepts(
        self, features: Int[Tensor, " concepts"], detection: Float[Tensor, " concepts"], count: Int[Tensor, " concepts"]
    ) -> None:
        """Write two more columns into the catalogue."""
        path = self.out / CONCEPTS
        found = dict(zip(features.tolist(), zip(detection.tolist(), count.tolist(), strict=True), strict=True))
        missing = (float("nan"), None)
        rows = pq.read_table(path).to_pylist()
        for row in rows:
            row["detection"], row["n_active_unseen"] = found.get(row["feature"], missing)
        write_parquet(rows, path)
