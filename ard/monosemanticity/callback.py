"""Score every feature of every method and select the top-C, from representatives and embeddings on disk."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from lightning import LightningModule, Trainer
from scipy.stats import rankdata
from torch import Tensor

from ard.activations import read_manifest
from ard.embedding import EMBEDDED
from ard.monosemanticity.chance import (
    RandomLists,
    compare_with_chance,
    draw_clips,
    mean_over_random_lowest,
    random_lists,
)
from ard.monosemanticity.functional import (
    DEFAULT,
    Reading,
    list_moments,
    q_values,
    score_lists,
    share_curve,
    top_share_mean,
)
from ard.monosemanticity.halves import Halves, compare_halves
from ard.monosemanticity.metric import Noted, SilentFeatures, WeightedMonosemanticity
from ard.monosemanticity.orders import draw_orders, highest_over_orders
from ard.probing import SCORERS, Evaluator, Scored
from ard.representatives import HALVES, RANDOM_ACTIVE, read_ties
from ard.representatives.functional import LEAST_P
from ard.results import Figure, Result
from ard.run import Cell
from ard.sae import Dictionary
from ard.types import UserError

MS = "pooled standard deviations"
LEAST_SELECTED = 50  # where C is the number of features above chance


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

    - ``<scorer>/m``; ``<scorer>/p_value``, how often m is reached if H is drawn at random and the feature's L^k is kept
      (:func:`~ard.monosemanticity.chance.compare_with_chance`); and ``<scorer>/q_value``, the lowest false-discovery
      rate at which the feature passes among all live ones (Benjamini and Hochberg). ``<scorer>/m_by_chance`` is m of
      one such random H for each feature.
    - ``ard/coherence``: E_H, the mean cosine within H^k; ``random_lowest/m``: mean m over random draws of L.
    - ``half0/m``, ``half1/m``: m among either half of the clips, NaN if the feature is silent there;
      ``halves/cosine``: of the mean embeddings of H^k in both halves.
    - ``halves/features``, ``halves/p_value``, ``halves/q_value`` [concepts]: the top-C of the first half, and how they
      fare on the second.
    - ``weighted/m``: the score of reference [18] over all clips, weighted by the mean activation of a clip's tokens.

    The figures of ``monosemanticity.json``, for Eq. 2. Those of live features compare dictionaries of any width; those
    of a fixed C rise with the width.

    - ``ms``, ``mean_ms``: the highest m (the paper's), and the mean of the top-C.
    - ``above_chance``: share of the live features whose q-value is at most ``false_discovery_rate``.
    - ``above_chance_other_half``: of the top-C by m on one half of the clips, the share that is above chance on the
      other. Clips of one speaker or recording may be in both halves.
    - ``halves_agreement``: Spearman's correlation of m on the two halves, over features that are active in both.
    - ``coherence``, ``mean_ms_live``, ``median_ms_live``, ``mean_ms_top_share``: means over live features, their
      median m, and the mean of the highest fifth.
    - ``mean_ms_random_lowest``, ``mean_ms_random_lowest_top_share``: the same with L drawn at random for every feature,
      often: one rule for every dictionary, whereas L^k is of its own making.
    - ``mean_weighted_ms``: mean of ``weighted/m`` over the top-C.

    Its details: ``curve`` has [share, m] pairs, m being reached by that share of the live features; ``ms_over_orders``
    has the lowest, the median and the highest of the highest m over random orders of the data set, which decide what
    silent clips make L^k (:func:`~ard.monosemanticity.orders.highest_over_orders`); ``num_distinct_lowest`` counts
    the different L^k of live features.

    Without a CLAP model there is no m: no result, and every feature that is active in at least p clips is selected, by
    how often it is active.

    Args:
        clap: the CLAP model; None for no m.
        num_selected: C (the paper's 5000), bounded by the number of live features; None for as many as are above
            chance, at least 50.
        baselines: score `Mean Act.`, `Coverage` and `Rand. Rep.` too.
        num_draws: draws of random representatives (the paper's 10).
        random_from: draw them from ``all`` clips, or from those where the feature is ``active``; the latter are drawn
            during retrieval (``num_random`` there).
        random_lowest: draw the clips of L^k at random too, rather than keep them.
        reading: how to read Eq. 3 and 4.
        num_null_draws: random H that m is compared with; no p-value is below 1 / (1 + this number).
        false_discovery_rate: rate at which features count as above chance.
        seed: seed for the draws and the bootstrap.
    """

    needs = ("representatives",)
    makes = ("selections",)
    results = ("monosemanticity",)
    embeds = ("probe",)

    def __init__(
        self,
        *,
        clap: str | None = EMBEDDED,
        num_selected: int | None = 5000,
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
        self._retrieved_anew = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """See whether the lists are to be retrieved in the same pass; what lies in the cell is then not used."""
        others = [callback for callback in trainer.callbacks if isinstance(callback, Evaluator)]  # type: ignore[attr-defined]
        self._retrieved_anew = any("representatives" in other.makes for other in others)
        super().setup(trainer, pl_module, stage)

    def check(self, cell: Cell) -> None:
        """Refuse lists too short for a score.

        Raises:
            UserError: if those in the cell have fewer than three clips.
        """
        if not self._retrieved_anew and (p := cell.tensors("representatives")["ard/top_ids"].shape[1]) < LEAST_P:
            raise UserError(
                f"the lists in '{cell.folder}' are of {p} clips, which have no spread that m could be measured by: "
                f"retrieve the representatives again with p {LEAST_P} or more"
            )

    def start(self, cell: Cell, dictionary: Dictionary) -> None:
        """Prepare the weighted score, and draw orders of the data set."""
        if self.clap_name is None:
            return
        self._embedded = self.embeddings(cell, "probe")
        self._weighted = WeightedMonosemanticity(dictionary.d_sae, self._embedded.shape[1]).to(self.device)
        self._orders = draw_orders(len(self._embedded), torch.Generator().manual_seed(self.seed))
        self._silent = SilentFeatures(dictionary.d_sae, self._orders).to(self.device)

    def update(self, split: str, scored: Scored) -> None:
        """Fold in a batch of the probing set."""
        if split == "probe" and self.clap_name is not None:
            mean, rows = scored.scores.mean, scored.batch.rows
            self._weighted.update(mean, self._embedded[rows.cpu()].to(mean.device))
            self._silent.update(scored.scores.coverage == 0, rows)

    def gather(self) -> None:
        """Gather what all ranks took in."""
        if self.clap_name is None:
            return
        self._of_all_clips = self._weighted.compute().cpu()
        rows, bits, num_features = self._silent.compute()
        self._noted = Noted(rows.cpu(), bits.cpu(), num_features)
        self._weighted.reset()
        self._silent.reset()

    def evaluate(self, cell: Cell) -> Result | None:
        """Score the features, select the top-C and write both; None without a CLAP model."""
        stored = cell.tensors("representatives")
        if self.clap_name is None:
            self._select_unscored(cell, stored)
            return None
        dead = stored["n_active"] == 0
        tensors: dict[str, Tensor] = {"weighted/m": self._of_all_clips.masked_fill(dead, math.nan)}
        scorers = self._scorers(cell)
        for scorer in scorers:
            lists = stored[f"{scorer}/top_ids"], stored[f"{scorer}/bottom_ids"]
            tensors[f"{scorer}/m"] = score_lists(self._embedded, *lists, self.reading).masked_fill(dead, math.nan)
        generator = torch.Generator().manual_seed(self.seed)
        p = stored["ard/top_ids"].shape[1]
        drawn = random_lists(self._embedded, p, self.num_null_draws, self.reading, generator=generator)
        self._compare_with_chance(tensors, stored, drawn, generator)
        num_selected = self._num_selected(tensors)
        for scorer in scorers:
            m = tensors[f"{scorer}/m"]
            features = m.nan_to_num(-math.inf).argsort(descending=True, stable=True)[:num_selected]
            self._keep(tensors, f"{scorer}/0", Selection(features, m[features], stored[f"{scorer}/top_ids"][features]))
        self._describe(tensors, stored, drawn, generator)
        halves = compare_halves(
            self._embedded, stored, num_selected, self.num_null_draws, self.reading, generator=generator
        )
        if halves is not None:
            self._keep_halves(tensors, halves)
        if len(scorers) > 1:
            self._draw(tensors, stored, len(self._embedded))
        cell.save_tensors("selections", tensors)
        return self._result(cell, tensors, stored)

    def _scorers(self, cell: Cell) -> tuple[str, ...]:
        return tuple(SCORERS) if self.baselines and not cell.is_baseline else ("ard",)

    def _num_selected(self, tensors: Mapping[str, Tensor]) -> int:
        """Return C: at most all live features."""
        passed = int((tensors["ard/q_value"] <= self.false_discovery_rate).sum())
        wanted = max(passed, LEAST_SELECTED) if self.num_selected is None else self.num_selected
        return min(wanted, int((~tensors["ard/m"].isnan()).sum()))

    def _select_unscored(self, cell: Cell, stored: dict[str, Tensor]) -> None:
        """Select the features that are active in at least p clips, the busiest first, with m undefined."""
        often, p = stored["n_active"], stored["ard/top_ids"].shape[1]
        features = often.argsort(descending=True, stable=True)[
            : min(self.num_selected or len(often), int((often >= p).sum()))
        ]
        tensors: dict[str, Tensor] = {}
        undefined = torch.full((len(often),), math.nan, dtype=torch.float64)
        for scorer in self._scorers(cell):
            tensors |= {f"{scorer}/{name}": undefined.clone() for name in ("m", "p_value", "q_value")}
            top = stored[f"{scorer}/top_ids"][features]
            self._keep(tensors, f"{scorer}/0", Selection(features, undefined[features], top))
        if len(self._scorers(cell)) > 1:
            self._draw(tensors, stored, len(read_manifest(cell.probe).clip_ids))
        cell.save_tensors("selections", tensors)

    def _compare_with_chance(
        self, tensors: dict[str, Tensor], stored: Mapping[str, Tensor], drawn: RandomLists, generator: torch.Generator
    ) -> None:
        """Add p- and q-values; the random H are the same for all scorers."""
        for scorer in [scorer for scorer in SCORERS if f"{scorer}/m" in tensors]:
            lists = stored[f"{scorer}/top_ids"], stored[f"{scorer}/bottom_ids"]
            m = tensors[f"{scorer}/m"]
            p, by_chance = compare_with_chance(m, *lists, self._embedded, drawn, self.reading, generator=generator)
            tensors |= {f"{scorer}/p_value": p, f"{scorer}/q_value": q_values(p), f"{scorer}/m_by_chance": by_chance}

    def _describe(
        self, tensors: dict[str, Tensor], stored: Mapping[str, Tensor], drawn: RandomLists, generator: torch.Generator
    ) -> None:
        """Add what H^k alone says: its coherence, and m with L at random."""
        dead = stored["n_active"] == 0
        top = list_moments(self._embedded, stored["ard/top_ids"], self.reading)
        random_lowest = mean_over_random_lowest(top, drawn, self.reading, generator=generator)
        tensors["ard/coherence"] = top.mean.masked_fill(dead, math.nan)
        tensors["random_lowest/m"] = random_lowest.masked_fill(dead, math.nan)

    @staticmethod
    def _keep_halves(tensors: dict[str, Tensor], halves: Halves) -> None:
        tensors |= {f"{name}/m": m for name, m in zip(HALVES, halves.m, strict=True)}
        tensors |= {"halves/cosine": halves.cosine, "halves/features": halves.features}
        tensors |= {"halves/p_value": halves.p_value, "halves/q_value": q_values(halves.p_value)}

    def _draw(self, tensors: dict[str, Tensor], stored: dict[str, Tensor], num_clips: int) -> None:
        """Draw random representatives for AR&D's top-C and score them, by default against the same L^k."""
        features = tensors["ard/0/features"]
        generator = torch.Generator().manual_seed(self.seed)
        lowest = stored["ard/bottom_ids"][features]
        p = lowest.shape[1]
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
            if self.clap_name is None:
                m = torch.full((len(features),), math.nan, dtype=torch.float64)
            else:
                m = score_lists(self._embedded, top, bottom, self.reading)
            self._keep(tensors, f"random/{draw}", Selection(features, m, top))

    @staticmethod
    def _keep(tensors: dict[str, Tensor], name: str, selection: Selection) -> None:
        tensors |= {f"{name}/{field}": t.clone() for field, t in selection._asdict().items()}

    def _result(self, cell: Cell, tensors: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> Result:
        ties = read_ties(cell)
        live = stored["n_active"] > 0
        passed = {
            scorer: (tensors[f"{scorer}/q_value"][live] <= self.false_discovery_rate)
            for scorer in SCORERS
            if f"{scorer}/m" in tensors
        }
        other_half = tensors.get("halves/q_value", torch.empty(0)) <= self.false_discovery_rate
        choices = {
            **asdict(self.reading),
            **ties,
            "clap": self.clap_name,
            "num_selected": len(tensors["ard/0/features"]),
            "chance": "H drawn without replacement from the clips not in L, given each L",
            "num_null_draws": self.num_null_draws,
            "random_from": self.random_from,
            "random_lowest": self.random_lowest,
            "false_discovery_rate": self.false_discovery_rate,
        }
        details = {
            "num_features": len(live),
            "num_dead": int((~live).sum()),
            "num_live": int(live.sum()),
            "num_above_chance": {scorer: int(of_scorer.sum()) for scorer, of_scorer in passed.items()},
            "num_selected_on_half": len(other_half),
            "num_above_chance_other_half": int(other_half.sum()),
            "num_distinct_lowest": len(stored["ard/bottom_ids"][live].sort(dim=1).values.unique(dim=0)),
            "curve": share_curve(_defined(tensors["ard/m"])),
            "ms_over_orders": self._over_orders(stored, ties["ties"]),
            "num_without_weighted_ms": int(tensors["weighted/m"].isnan().sum()),
        }
        figures = self._figures(tensors, passed["ard"], other_half)
        return Result("monosemanticity", (cell.row(figures),), choices, details)

    def _figures(
        self, tensors: Mapping[str, Tensor], passed: Bool[Tensor, " live"], other_half: Bool[Tensor, " concepts"]
    ) -> dict[str, Figure]:
        def estimate(samples: np.ndarray, statistic: Callable[[Any], Any], unit: str = MS) -> Figure:
            return Figure.estimate(samples, statistic, unit, over="concepts", seed=self.seed)

        selected, live = tensors["ard/0/m"].numpy(), _defined(tensors["ard/m"])
        random_lowest = _defined(tensors["random_lowest/m"])
        weighted = _defined(tensors["weighted/m"][tensors["ard/0/features"]])
        return {
            "ms": estimate(selected, np.max),
            "mean_ms": estimate(selected, np.mean),
            "above_chance": estimate(passed.double().numpy(), np.mean, "share of the live features"),
            "above_chance_other_half": estimate(other_half.double().numpy(), np.mean, "share of the top-C"),
            "halves_agreement": estimate(_ranks(tensors), _correlation, "rank correlation"),
            "coherence": estimate(_defined(tensors["ard/coherence"]), np.mean, "cosine"),
            "mean_ms_live": estimate(live, np.mean),
            "median_ms_live": estimate(live, np.median),
            "mean_ms_top_share": estimate(live, top_share_mean),
            "mean_ms_random_lowest": estimate(random_lowest, np.mean),
            "mean_ms_random_lowest_top_share": estimate(random_lowest, top_share_mean),
            "mean_weighted_ms": estimate(weighted, np.mean, "cosine"),
        }

    def _over_orders(self, stored: Mapping[str, Tensor], ties: str) -> list[float]:
        """Return lowest, median and highest of the highest m over orders of the data set."""
        if ties == "preact":  # which are hardly ever equal: the order decides nothing
            orders, each = self._orders[:0], False
        else:
            orders, each = self._orders, ties == "seeded_random"
        generator = torch.Generator().manual_seed(self.seed)
        highest = highest_over_orders(
            self._embedded, stored, self._noted, orders, self.reading, each=each, generator=generator
        ).numpy()
        return [float(np.quantile(highest, level)) for level in (0, 0.5, 1)] if len(highest) else []


def _defined(scores: Float[Tensor, " features"]) -> Float[np.ndarray, " live"]:
    return scores[~scores.isnan()].numpy()


def _ranks(tensors: Mapping[str, Tensor]) -> Float[np.ndarray, "live 2"]:
    """Return the ranks of m on both halves, of the features that have both."""
    if f"{HALVES[0]}/m" not in tensors:
        return np.empty((0, 2))
    m = torch.stack([tensors[f"{name}/m"] for name in HALVES], dim=1).numpy()
    return np.asarray(rankdata(m[np.isfinite(m).all(axis=1)], axis=0))


def _correlation(ranks: Float[np.ndarray, "live 2"]) -> float:
    """Return Spearman's correlation; 0 if either column is constant, for there is no order to agree with."""
    centred = ranks - ranks.mean(axis=0)
    scale = float(np.sqrt(np.square(centred).sum(axis=0).prod()))
    return float(centred[:, 0] @ centred[:, 1]) / scale if scale else 0.0
