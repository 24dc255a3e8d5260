"""Score every feature of every method and select the top-C, from representatives and embeddings on disk."""

import math
from dataclasses import asdict
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ard.embedding import EMBEDDED
from ard.monosemanticity.functional import (
    DEFAULT,
    Reading,
    chance_scores,
    draw_clips,
    num_shared,
    p_values,
    q_values,
    score_lists,
)
from ard.monosemanticity.metric import WeightedMonosemanticity
from ard.probing import SCORERS, Evaluator, Scored
from ard.representatives import RANDOM_ACTIVE, read_ties
from ard.results import Figure, Result
from ard.run import Cell
from ard.sae import Dictionary
from ard.types import UserError


class Selection(NamedTuple):
    """The top-C features of one method (or of one random draw), most monosemantic first."""

    features: Int[Tensor, " concepts"]
    m: Float[Tensor, " concepts"]
    top_ids: Int[Tensor, "concepts p"]


def read_selections(cell: Cell) -> dict[str, list[Selection]]:
    """Read the selections of a dictionary by scorer: several draws for ``random``, one for every other."""
    stored = cell.tensors("selections")
    names = sorted({name.rpartition("/")[0] for name in stored if name.count("/") == 2})
    selections: dict[str, list[Selection]] = {}
    for name in names:
        selection = Selection(*(stored[f"{name}/{field}"] for field in Selection._fields))
        selections.setdefault(name.partition("/")[0], []).append(selection)
    return selections


class ScoreMonosemanticity(Evaluator):
    """Write m of every feature, the top-C of every method, and the result ``monosemanticity.json``.

    The methods are the paper's: for an SAE, the three scorers and `Rand. Rep.`, which takes AR&D's top-C but draws the
    clips of H^k at random and keeps L^k (Sec. 3 b); for raw coordinates, Eq. 2 alone. Dead features have m = NaN and
    are counted. ``monosemanticity.safetensors`` holds the selections of every method and, for every feature:

    - ``<scorer>/m``; ``<scorer>/p_value``, how often the same formula gives at least as much on shuffled clips; and
      ``<scorer>/q_value``, the lowest false-discovery rate at which the feature passes (Benjamini and Hochberg).
    - ``weighted/m``: the score of reference [18] over all clips, weighted by the mean activation of a clip's tokens.

    Args:
        clap: the CLAP model.
        num_selected: C (the paper's 5000), bounded by the number of live features.
        baselines: score `Mean Act.`, `Coverage` and `Rand. Rep.` too.
        num_draws: draws of random representatives (the paper's 10).
        random_from: draw them from ``all`` clips, or from those where the feature is ``active``; the latter are drawn
            during retrieval (``num_random`` there).
        random_lowest: draw the clips of L^k at random too, rather than keep them.
        reading: how to read Eq. 3 and 4.
        num_null_draws: shuffles that m is compared with; no p-value is below 1 / (1 + this number).
        false_discovery_rate: rate at which features count as above chance.
        seed: seed for the draws, the shuffles and the bootstrap.
    """

    needs = ("representatives",)
    makes = ("selections",)
    results = ("monosemanticity",)
    embeds = ("probe",)

    def __init__(
        self,
        *,
        clap: str = EMBEDDED,
        num_selected: int = 5000,
        baselines: bool = True,
        num_draws: int = 10,
        random_from: Literal["all", "active"] = "all",
        random_lowest: bool = False,
        reading: Reading = DEFAULT,
        num_null_draws: int = 20_000,
        false_discovery_rate: float = 0.05,
        seed: int = 0,
    ) -> None:
        super().__init__(clap=clap, seed=seed)
        self.num_selected, self.baselines, self.num_draws = num_selected, baselines, num_draws
        self.random_from, self.random_lowest = random_from, random_lowest
        self.reading = reading
        self.num_null_draws, self.false_discovery_rate = num_null_draws, false_discovery_rate

    def start(self, cell: Cell, dictionary: Dictionary) -> None:
        """Prepare the weighted score."""
        self._embedded = self.embeddings(cell, "probe")
        self._weighted = WeightedMonosemanticity(dictionary.d_sae, self._embedded.shape[1]).to(self.device)

    def update(self, split: str, scored: Scored) -> None:
        """Fold a batch of the probing set into the weighted score."""
        if split == "probe":
            mean = scored.scores.mean
            self._weighted.update(mean, self._embedded[scored.batch.rows.cpu()].to(mean.device))

    def gather(self) -> None:
        """Gather the weighted score of all ranks."""
        self._of_all_clips = self._weighted.compute().cpu()
        self._weighted.reset()

    def evaluate(self, cell: Cell) -> Result | None:
        """Score the features, select the top-C and write both."""
        stored = cell.tensors("representatives")
        dead = stored["n_active"] == 0
        tensors: dict[str, Tensor] = {"weighted/m": self._of_all_clips.masked_fill(dead, math.nan)}
        with_baselines = self.baselines and not cell.is_baseline
        for scorer in SCORERS if with_baselines else ("ard",):
            top, bottom = stored[f"{scorer}/top_ids"], stored[f"{scorer}/bottom_ids"]
            m = score_lists(self._embedded, top, bottom, self.reading).masked_fill(dead, math.nan)
            tensors[f"{scorer}/m"] = m
            features = m.nan_to_num(-math.inf).argsort(descending=True, stable=True)[: self._count(m)]
            self._keep(tensors, f"{scorer}/0", Selection(features, m[features], top[features]))
        self._compare_with_chance(tensors, stored)
        if with_baselines:
            self._draw(tensors, stored)
        cell.save_tensors("selections", tensors)
        return self._result(cell, tensors, dead)

    def _count(self, m: Tensor) -> int:
        return min(self.num_selected, int((~m.isnan()).sum()))

    def _compare_with_chance(self, tensors: dict[str, Tensor], stored: dict[str, Tensor]) -> None:
        """Add p- and q-values; the shuffles are the same for all scorers."""
        scorers = [scorer for scorer in SCORERS if f"{scorer}/m" in tensors]
        shared = {s: num_shared(stored[f"{s}/top_ids"], stored[f"{s}/bottom_ids"]) for s in scorers}
        length, generator = stored["ard/top_ids"].shape[1], torch.Generator().manual_seed(self.seed)
        chance = {
            number: chance_scores(
                self._embedded, length, number, self.reading, num_draws=self.num_null_draws, generator=generator
            )
            for number in torch.cat(list(shared.values())).unique().tolist()
        }
        for scorer in scorers:
            p = p_values(tensors[f"{scorer}/m"], shared[scorer], chance)
            tensors |= {f"{scorer}/p_value": p, f"{scorer}/q_value": q_values(p)}

    def _draw(self, tensors: dict[str, Tensor], stored: dict[str, Tensor]) -> None:
        """Draw random representatives for AR&D's top-C and score them, by default against the same L^k."""
        features = tensors["ard/0/features"]
        generator = torch.Generator().manual_seed(self.seed)
        lowest = stored["ard/bottom_ids"][features]
        num_clips, p = len(self._embedded), lowest.shape[1]
        if self.random_from == "active" and len(stored.get(RANDOM_ACTIVE, ())) < self.num_draws:
            raise UserError(
                f"random_from 'active' needs {self.num_draws} draws from retrieval, and there are "
                f"{len(stored.get(RANDOM_ACTIVE, ()))}: give RetrieveRepresentatives num_random: {self.num_draws}"
            )
        for draw in range(self.num_draws):
            if self.random_from == "active":
                top = stored[RANDOM_ACTIVE][draw, features]
            else:
                top = draw_clips(num_clips, p, len(features), generator)
            bottom = draw_clips(num_clips, p, len(features), generator) if self.random_lowest else lowest
            m = score_lists(self._embedded, top, bottom, self.reading)
            self._keep(tensors, f"random/{draw}", Selection(features, m, top))

    @staticmethod
    def _keep(tensors: dict[str, Tensor], name: str, selection: Selection) -> None:
        tensors |= {f"{name}/{field}": t.clone() for field, t in selection._asdict().items()}

    def _result(self, cell: Cell, tensors: dict[str, Tensor], dead: Tensor) -> Result:
        selected = tensors["ard/0/m"].numpy()
        weighted = tensors["weighted/m"][tensors["ard/0/features"]].numpy()
        weighted = weighted[np.isfinite(weighted)]
        q = {name.partition("/")[0]: t for name, t in tensors.items() if name.endswith("/q_value")}
        passed = (q["ard"][tensors["ard/0/features"]] <= self.false_discovery_rate).double().numpy()
        figures = {
            "ms": Figure.estimate(selected, np.max, "pooled standard deviations", over="concepts", seed=self.seed),
            "mean_ms": Figure.estimate(
                selected, np.mean, "pooled standard deviations", over="concepts", seed=self.seed
            ),
            "above_chance": Figure.estimate(passed, np.mean, "share of the top-C", over="concepts", seed=self.seed),
            "mean_weighted_ms": Figure.estimate(weighted, np.mean, "cosine", over="concepts", seed=self.seed),
        }
        choices = {
            **asdict(self.reading),
            **read_ties(cell),
            "clap": self.clap_name,
            "num_selected": len(selected),
            "chance": "H and L drawn without replacement, pooled over features",
            "num_null_draws": self.num_null_draws,
            "random_from": self.random_from,
            "random_lowest": self.random_lowest,
            "false_discovery_rate": self.false_discovery_rate,
        }
        details = {
            "num_features": len(dead),
            "num_dead": int(dead.sum()),
            "num_above_chance": {scorer: int((t <= self.false_discovery_rate).sum()) for scorer, t in q.items()},
            "num_selected_above_chance": int(passed.sum()),
            "num_without_weighted_ms": int(tensors["weighted/m"].isnan().sum()),
        }
        return Result("monosemanticity", (cell.row(figures),), choices, details)
