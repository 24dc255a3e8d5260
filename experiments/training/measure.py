"""What is measured of a dictionary, trained or not: the truth by labels, and what orders features without them."""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file
from scipy.stats import rankdata
from torch import Tensor
from torch.nn.functional import normalize

from ard.activations import ActivationDataModule, read_clips_metadata
from ard.embedding import load_clap
from ard.evaluation import paired_auroc
from ard.monosemanticity import score_lists
from ard.monosemanticity.chance import draw_clips
from ard.monosemanticity.functional import q_values
from ard.probing import score
from ard.results import sealed, unsealed, write_json
from ard.sae import Quality, TopKSAE
from ard.types import Clip
from experiments.training.settings import Setting

QUANTILES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995)
"""The activity thresholds to choose from: a feature is active in a clip above this quantile of its own scores."""

FIRES = 0.9  # the quantile that says, without labels, where a feature fires
P = 4  # clips in H^k
MIN_CLIPS = 2 * P  # of a label: as many in each half as H^k has
NUM_SPLITS = 5
NUM_DRAWS = 3  # of the untrained control
NUM_CHANCE_DRAWS = 20_000
FALSE_DISCOVERY_RATE = 0.05

SCORES = {
    "m": "m (Eq. 4)",
    "coherence": "E_H, the coherence of H^k (Eq. 3)",
    "wide": "E of four times as many clips as H^k has",
    "detection": "AUROC of a clip's closeness to the centroid of H^k for whether the feature fires, in other clips",
    "correlation": "Pearson's correlation of that closeness with the feature's score, in other clips",
    "agreement": "cosine of the centroids of H^k in two parts of the clips",
    "effect": "norm effect: mean activation times the norm of the direction",
    "strength": "norm effect where the feature is active",
    "alignment": "cosine of encoder and decoder direction",
    "rarity": "minus the share of tokens in which the feature is active",
    "both": "sum of the ranks by E_H and by norm effect",
}
"""What orders features without labels; more is better."""


class Data(NamedTuple):
    """What dictionaries are measured on: clips that have labels, and what is known of these."""

    activations: Path
    evaluation: Path | None  # for FVU and L0; the probing clips themselves if there are none
    layer: int
    rows: Int[Tensor, " clips"]  # of the clips with labels
    labels: Bool[np.ndarray, "clips labels"]
    embeddings: Float[Tensor, "clips d"]
    num_selected: int  # C


class Halves(NamedTuple):
    """A split of the clips: names are made of one half and measured on the other; quarters are halves of the first."""

    named: Int[np.ndarray, " named"]
    other: Int[np.ndarray, " other"]
    quarters: tuple[Int[np.ndarray, " quarter"], Int[np.ndarray, " rest"]]


class Encoded(NamedTuple):
    """A dictionary on the labelled clips, and how well it reconstructs."""

    scores: Float[np.ndarray, "clips features"]  # r (Eq. 2)
    mean: Float[np.ndarray, "clips features"]  # mu
    coverage: Float[np.ndarray, "clips features"]  # c
    norms: Float[np.ndarray, " features"]  # of decoder directions
    alignment: Float[np.ndarray, " features"]  # cosine of encoder and decoder directions
    fvu: float
    l0: float


class Named(NamedTuple):
    """What a set of clips says of every feature."""

    top: Int[np.ndarray, "features p"]  # H^k, as rows of the data
    wide: Int[np.ndarray, "features four_p"]  # four times as many
    bottom: Int[np.ndarray, "features p"]  # L^k
    label: Int[np.ndarray, " features"]  # the majority label; -1 if there is none
    thresholds: Float[np.ndarray, "quantiles features"]  # by ``QUANTILES``
    live: Bool[np.ndarray, " features"]  # active in at least p clips


def read_data(
    activations: Path, layer: int, evaluation: Path | None, embeddings: str, num_selected: int
) -> tuple[Data, list[str]]:
    """Read labels and embeddings of the clips that have labels; also return the labels that count, in order."""
    clips = read_clips_metadata(activations)
    rows = [row for row, clip in enumerate(clips) if clip.get("labels")]
    num_clips = Counter(label for row in rows for label in set(clips[row]["labels"]))
    vocabulary = sorted(label for label, number in num_clips.items() if number >= MIN_CLIPS)
    labels = np.array([[label in clips[row]["labels"] for label in vocabulary] for row in rows])
    if embeddings.startswith("computed:"):
        empty = np.zeros(0, dtype=np.float32)
        embedded = load_clap(embeddings).audio([Clip(clips[row]["id"], empty, 16000, "") for row in rows])
    else:
        embedded = load_file(embeddings)["embeddings"][rows]
    unit = normalize(embedded.float(), dim=-1)
    return Data(activations, evaluation, layer, torch.tensor(rows), labels, unit, num_selected), vocabulary


def split_halves(num_clips: int, seed: int) -> Halves:
    """Split the clips at random, and one half again. The order within a part is random too: it breaks ties.

    In the order of the data, L^k would be the data set's first silent clips, which are often of one kind.
    """
    order = np.random.default_rng(seed).permutation(num_clips)
    named, other = order[: num_clips // 2], order[num_clips // 2 :]
    middle = len(named) // 2
    return Halves(named, other, (named[:middle], named[middle:]))


def untrained(sae: TopKSAE, draw: int) -> TopKSAE:
    """Return an SAE of the same form that was never trained: random directions, b_dec of the trained one."""
    generator = torch.Generator().manual_seed(1000 + draw)
    control = TopKSAE(sae.d_in, sae.d_sae, k=sae.k, pre_bias=sae.pre_bias, generator=generator)
    with torch.no_grad():
        control.b_dec.copy_(sae.b_dec)
    return control


@torch.inference_mode()
def encode(sae: TopKSAE, data: Data) -> Encoded:
    """Score the clips by Eq. 2, and measure FVU and L0 over the tokens of the evaluation clips, if there are any."""
    module = ActivationDataModule(data.activations, layer=data.layer, evaluation=data.evaluation)
    loaders, quality = module.test_dataloader(), Quality(sae.d_in, sae.d_sae)
    parts: list[list[Tensor]] = [[], [], []]
    for number, loader in enumerate(loaders):
        for stored in loader:
            batch = module.on_after_batch_transfer(stored, number)
            scored = score(sae, batch)
            if number == len(loaders) - 1:
                quality.update(batch.x, sae.decode(scored.codes), scored.codes)
            if number == 0:
                for part, of_batch in zip(parts, scored.scores, strict=True):
                    part.append(of_batch.float())
    scores, mean, coverage = (torch.cat(part)[data.rows].numpy() for part in parts)
    figures = quality.compute()
    encoder, decoder = sae.W_enc.T, sae.directions()
    alignment = torch.cosine_similarity(encoder, decoder, dim=-1).numpy()
    norms = decoder.norm(dim=-1).numpy()
    return Encoded(scores, mean, coverage, norms, alignment, float(figures["fvu"]), float(figures["l0"]))


def majority_labels(
    top: Int[np.ndarray, "features p"], labels: Bool[np.ndarray, "clips labels"], frequency: Int[np.ndarray, " labels"]
) -> Int[np.ndarray, " features"]:
    """Return :func:`ard.evaluation.shared_label` of every feature's clips, as a column of ``labels``; -1 for None."""
    counts = labels[top].sum(axis=1)
    rank = np.where(2 * counts > top.shape[1], counts * (len(labels) + 1) - frequency, -1)
    return np.where((2 * counts > top.shape[1]).any(axis=1), rank.argmax(axis=1), -1)


def name(encoded: Encoded, data: Data, rows: Int[np.ndarray, " rows"]) -> Named:
    """Find H^k, L^k, names and thresholds on some of the clips; ties keep the order of the rows."""
    scores = encoded.scores[rows]
    best = np.argsort(-scores, axis=0, kind="stable")
    top, bottom = rows[best[:P].T], rows[np.argsort(scores, axis=0, kind="stable")[:P].T]
    descending = np.take_along_axis(scores, best, axis=0)
    above = [round((1 - quantile) * len(rows)) for quantile in QUANTILES]
    label = majority_labels(top, data.labels, data.labels[rows].sum(axis=0))
    return Named(top, rows[best[: 4 * P].T], bottom, label, descending[above], (scores > 0).sum(axis=0) >= P)


class Counts(NamedTuple):
    """What micro F1 is made of."""

    hits: int
    predicted: int
    true: int

    @property
    def f1(self) -> float:
        """F1; 0 if nothing is right."""
        return 2 * self.hits / max(self.predicted + self.true, 1)


def count(
    active: Float[np.ndarray, "clips features"],
    label: Int[np.ndarray, " features"],
    chosen: Int[np.ndarray, " chosen"],
    labels: Bool[np.ndarray, "clips labels"],
) -> Counts:
    """Count the labels that the chosen features' names predict: of a clip, those of its active features."""
    chosen = chosen[label[chosen] >= 0]
    columns = np.zeros((len(chosen), labels.shape[1]), dtype=np.float32)
    columns[np.arange(len(chosen)), label[chosen]] = 1
    predicted = active[:, chosen] @ columns > 0
    return Counts(int((predicted & labels).sum()), int(predicted.sum()), int(labels.sum()))


def held_out_f1(
    encoded: Encoded, data: Data, halves: Halves, named: Named, inner: Sequence[Named], chosen: Int[np.ndarray, " c"]
) -> tuple[float, int]:
    """Return micro F1 on the other half, and the place of the quantile that was best between the quarters."""
    best, best_f1 = 0, -1.0
    for place in range(len(QUANTILES)):
        parts = []
        for of_quarter, rows in zip(inner, halves.quarters[::-1], strict=True):
            active = (encoded.scores[rows] > of_quarter.thresholds[place]).astype(np.float32)
            parts.append(count(active, of_quarter.label, chosen, data.labels[rows]))
        f1 = Counts(*map(sum, zip(*parts, strict=True))).f1
        if f1 > best_f1:
            best, best_f1 = place, f1
    active = (encoded.scores[halves.other] > named.thresholds[best]).astype(np.float32)
    return count(active, named.label, chosen, data.labels[halves.other]).f1, best


def centroids(
    embeddings: Float[np.ndarray, "clips d"], top: Int[np.ndarray, "features p"]
) -> Float[np.ndarray, "features d"]:
    """Return the unit centroid of every feature's clips."""
    mean = embeddings[top].mean(axis=1)
    return mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-8)


def pairs_mean(embeddings: Float[Tensor, "clips d"], rows: Int[Tensor, "sets p"]) -> Float[Tensor, " sets"]:
    """Return the mean cosine of the pairs of clips in every set (Eq. 3)."""
    cosines = (embeddings @ embeddings.T).double()[rows[:, :, None], rows[:, None, :]]
    p = rows.shape[1]
    return (cosines.sum(dim=(1, 2)) - p) / (p * (p - 1))


def label_free(
    encoded: Encoded, data: Data, halves: Halves, named: Named, inner: Sequence[Named]
) -> dict[str, Float[np.ndarray, " features"]]:
    """Return the ``SCORES`` of every feature, from the half that names are made of, without its labels."""
    top, bottom = torch.from_numpy(named.top), torch.from_numpy(named.bottom)
    centred = normalize(data.embeddings - data.embeddings[halves.named].mean(dim=0), dim=-1).numpy()
    detection, correlation = [], []
    for of_quarter, rows in zip(inner, halves.quarters[::-1], strict=True):
        closeness = centred[rows] @ centroids(centred, of_quarter.top).T
        scores = encoded.scores[rows]
        fires = scores > of_quarter.thresholds[QUANTILES.index(FIRES)]
        detection.append(paired_auroc(closeness, fires))
        a, b = closeness - closeness.mean(axis=0), scores - scores.mean(axis=0)
        scale = np.linalg.norm(a, axis=0) * np.linalg.norm(b, axis=0)
        correlation.append(np.where(scale > 0, (a * b).sum(axis=0) / np.maximum(scale, 1e-12), np.nan))
    mean, coverage = (part[halves.named].mean(axis=0) for part in (encoded.mean, encoded.coverage))
    centres = [centroids(centred, of_quarter.top) for of_quarter in inner]
    coherence, effect = pairs_mean(data.embeddings, top).numpy(), mean * encoded.norms
    return {
        "m": score_lists(data.embeddings, top, bottom).numpy(),
        "coherence": coherence,
        "wide": pairs_mean(data.embeddings, torch.from_numpy(named.wide)).numpy(),
        "detection": np.mean(detection, axis=0),
        "correlation": np.mean(correlation, axis=0),
        "agreement": (centres[0] * centres[1]).sum(axis=1),
        "effect": effect,
        "strength": mean / np.maximum(coverage, 1e-12) * encoded.norms,
        "alignment": encoded.alignment,
        "rarity": -coverage,
        "both": (rankdata(coherence) + rankdata(effect)) / len(effect),
    }


def above_chance(
    coherence: Float[np.ndarray, " features"], data: Data, rows: Int[np.ndarray, " rows"], seed: int
) -> float:
    """Return the share of features whose E_H is above that of as many random clips, at a false-discovery rate of .05.

    E_H alone, without L^k: the draws are then exact for representatives that are random, whatever the ties.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.from_numpy(rows)[draw_clips(len(rows), P, NUM_CHANCE_DRAWS, generator)]
    chance = pairs_mean(data.embeddings, drawn).sort().values
    reach = len(chance) - torch.searchsorted(chance, torch.from_numpy(coherence))
    p = (1 + reach).double() / (1 + len(chance))
    return float((q_values(p) <= FALSE_DISCOVERY_RATE).double().mean())


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Return Spearman's correlation over the places where both are numbers; NaN where one of them is constant."""
    both = np.isfinite(a) & np.isfinite(b)
    ranks = rankdata(a[both]), rankdata(b[both])
    if both.sum() < 3 or any(np.ptp(rank) == 0 for rank in ranks):
        return float("nan")
    return float(np.corrcoef(*ranks)[0, 1])


def measure_split(encoded: Encoded, data: Data, halves: Halves, seed: int) -> dict[str, Any]:
    """Measure a dictionary on one split of the clips."""
    named, *inner = (name(encoded, data, rows) for rows in (halves.named, *halves.quarters))
    f1_of = partial(held_out_f1, encoded, data, halves, named, inner)
    live = named.live.nonzero()[0]
    free = label_free(encoded, data, halves, named, inner)
    f1_live, place = f1_of(live)
    # The truth of every live feature: how well its name is told by its activity in the other half.
    scores, true = encoded.scores[halves.other], data.labels[halves.other][:, named.label]
    active = scores > named.thresholds[place]
    hits, total = (active & true).sum(axis=0), active.sum(axis=0) + true.sum(axis=0)
    has_name = named.label >= 0
    f1 = np.where(has_name, 2 * hits / np.maximum(total, 1), 0.0)[live]
    auroc = np.full(len(has_name), np.nan)
    auroc[has_name] = paired_auroc(scores[:, has_name], true[:, has_name])
    of_live = {key: values[live] for key, values in free.items()}
    orders = {key: np.argsort(-np.nan_to_num(values, nan=-np.inf), kind="stable") for key, values in of_live.items()}
    orders["random"] = np.random.default_rng(seed).permutation(len(live))
    fifth = max(len(live) // 5, 1)
    return {
        "num_live": len(live),
        "named_share": float(has_name[live].mean()),
        "f1": f1_live,
        "quantile": QUANTILES[place],
        "f1_by": {key: f1_of(live[order[: data.num_selected]])[0] for key, order in orders.items()},
        "m_top_fifth": float(of_live["m"][orders["m"][:fifth]].mean()),
        "above_chance": above_chance(of_live["coherence"], data, halves.named, seed),
        "feature_f1": float(f1.mean()),
        "feature_auroc": float(np.nanmean(auroc[live])),
        "mean": {key: float(np.nanmean(values)) for key, values in of_live.items()},
        "top_fifth": {key: float(np.nanmean(of_live[key][orders[key][:fifth]])) for key in SCORES},
        "rho_f1": {key: rank_correlation(values, f1) for key, values in of_live.items()},
        "rho_auroc": {key: rank_correlation(values, auroc[live]) for key, values in of_live.items()},
    }


def measure(sae: TopKSAE, data: Data) -> dict[str, Any]:
    """Measure a dictionary on all splits."""
    encoded = encode(sae, data)
    splits = [measure_split(encoded, data, split_halves(len(data.labels), s), s) for s in range(NUM_SPLITS)]
    return {"fvu": encoded.fvu, "l0": encoded.l0, "splits": splits}


def measure_cell(folder: Path, setting: Setting, seed: int, data: Data) -> dict[str, Any]:
    """Measure a trained SAE and its untrained controls, or read what an earlier command measured."""
    path = folder / "measured.json"
    if path.is_file():
        return unsealed(path.read_bytes())
    sae = TopKSAE.from_pretrained(folder / "sae")
    measured = {
        "setting": setting._asdict(),
        "seed": seed,
        "trained": measure(sae, data),
        "untrained": [measure(untrained(sae, NUM_DRAWS * seed + draw), data) for draw in range(NUM_DRAWS)],
    }
    write_json(path, sealed(measured))
    return measured
