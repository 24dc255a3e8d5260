"""What comes back when everything is repeated with another seed, each measure beside what chance gives."""

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from ard.evaluation.alignment import (
    Pairs,
    assigned,
    cosines,
    nearest_directions,
)
from ard.evaluation.vectors import (
    NULLS,
    SHUFFLED,
    Side,
    Vectors,
    null_vectors,
    own_vectors,
    read_data,
    side_of,
)
from ard.monosemanticity import Selection, read_selections
from ard.naming import read_names
from ard.results import Figure, Result, Row, trained_in
from ard.run import Cell
from ard.sae import load_dictionary
from ard.types import UserError

OF_COORDINATES, OF_RANDOM_CLIPS = NAME_NULLS = ("names of raw coordinates", "names of random clips")
"""Whose names are looked for in the other run, in place of the concepts'."""

WORDS = {
    "decoder": "decoder directions",
    "encoder": "encoder directions",
    "profile": "activation profiles",
    "name": "names",
}
"""What each measure compares."""

UNITS = {"decoder": "cosine", "encoder": "cosine", "profile": "Pearson's r"}
SCOPES = {"": "concepts", "_live": "live features"}  # by the end of a figure's name


class _Compared(NamedTuple):
    """Two dictionaries by one measure: every selected concept's partner, and every live feature's."""

    concepts: Pairs
    live: Pairs
    nearest: Float[np.ndarray, " concepts"]


def compare_seeds(cells: Sequence[Cell], *, cosine: float = 0.7, seed: int = 0) -> Result:
    """Compare the first dictionary with each of the others, and write ``seeds.json`` into its cell.

    Features are paired one to one, so that the sum of their similarities is highest, by three measures: the cosine of
    their ``decoder`` directions, the cosine of their ``encoder`` directions (of SAEs), and the correlation of their
    ``profile``, Eq. 2 over up to 512 clips of the first run that it was not trained on (where there are such), which
    every dictionary encodes; so runs whose sounds differ can be compared. A feature that is silent in all of these has
    no profile and is left out. The first row has for each of them:

    - ``<measure>_mcc``: mean cosine (or Pearson's r) of the selected concepts and their partners among the other's live
      features: the PW-MCC of Song et al. 2025 (arXiv 2505.20254) with the pairing of Paulo and Belrose 2025 ("Sparse
      autoencoders trained on the same data learn different features", arXiv 2501.16615). 1 for equal dictionaries.
    - ``<measure>_share``: share of the concepts whose partner has ``cosine`` or more.
    - ``<measure>_mcc_live``, ``<measure>_share_live``: the same over all live features, or 4096 drawn from them: all
      pairs of 32,768 features would take 8 GB.
    - ``<measure>_mcc_seeds``, with at least three runs: its mean over the other runs, from the lowest to the highest.
    - ``<measure>_beyond``, ``<measure>_beyond_live``: what its mean is above the highest null, feature by feature.
    - ``name_share``: share of the concepts whose name is in the other run, a name there being given to one concept.
    - ``come_back``: share of the concepts for which each other run has a decoder direction with this ``cosine``, be it
      the same for several; ``come_back_shuffled`` after shuffling coordinates. ``name_comes_back``: share of the named
      whose name each other run has.

    Every further row is a null: the same figures after the other dictionary is replaced (``NULLS``), or for names,
    after the concepts' names are (``NAME_NULLS``). What needs the activations of the first run is left out without
    them, and ``details.not_measured`` says so. Intervals are over concepts, of these dictionaries alone.

    Args:
        cells: cells of one layer and expansion, each from a run with another seed.
        cosine: least cosine of two features that count as the same.
        seed: seed of the nulls and the bootstrap.

    Raises:
        UserError: if there is only one dictionary, one is missing, or their widths differ.
    """
    started = time.monotonic()
    _refuse(cells)
    dictionaries = [load_dictionary(cell.sae) for cell in cells]
    widths = [dictionary.d_in for dictionary in dictionaries]
    if len(set(widths)) > 1:
        raise UserError(f"the SAEs read vectors of {widths} numbers: compare runs on one model")
    generator = torch.Generator().manual_seed(seed)
    data, not_measured = read_data(cells[0], max(dictionary.d_sae for dictionary in dictionaries), generator)
    sides = [side_of(cell, dictionary, data) for cell, dictionary in zip(cells, dictionaries, strict=True)]
    selection = read_selections(cells[0])["ard"][0]
    own = own_vectors(sides[0], selection, generator)
    matches = [_compare(own, other.vectors) for other in sides[1:]]
    nulls: dict[str, list[dict[str, _Compared]]] = {name: [] for name in NULLS}
    for dictionary, side in zip(dictionaries[1:], sides[1:], strict=True):
        for name, vectors in null_vectors(dictionary, side, data, generator):
            nulls[name].append(_compare(own, vectors))
    nulls = {name: compared for name, compared in nulls.items() if compared}
    summary = _Summary(cosine, seed)
    figures = summary.figures(matches) | summary.beyond(matches, nulls) | summary.come_back(matches, "come_back")
    figures |= summary.come_back(nulls[SHUFFLED], "come_back_shuffled", control=True)
    rows = [cells[0].row(figures | summary.names(cells))]
    for name, compared in nulls.items():
        rows.append(
            cells[0]
            .row(summary.figures(compared) | summary.come_back(compared, "come_back"), control=name)
            .as_control()
        )
    rows += summary.null_names(cells)
    strongest = {
        f"{measure}{suffix}": _strongest(measure, suffix, nulls) for measure in matches[0] for suffix in SCOPES
    }
    details = {
        "runs": [str(cell.folder) for cell in cells],
        "not_measured": not_measured,
        "num_live": [len(side.live) for side in sides],
        "strongest_null": strongest,
        "verdict": verdict(rows, strongest),
        "concepts": _concepts(cells, selection, sides, matches),
    }
    choices = {
        "same": "cosine of decoder directions",
        "cosine": cosine,
        "in": "all of the other runs",
        "pairs": "one to one, of the highest sum",
        "live_features_paired": f"{len(own['decoder'][1])} of {len(sides[0].live)}",
        "profile": f"Eq. 2 over {data.num_clips} clips of the first run's {cells[0].unseen} split" if data else None,
        "covariance": f"of {len(data.x)} tokens of the first run" if data else None,
        **trained_in(cell.result("monosemanticity") for cell in cells),
    }
    result = Result("seeds", tuple(rows), choices, details, seed, time.monotonic() - started)
    result.save(cells[0].result_path("seeds"))
    return result


def _refuse(cells: Sequence[Cell]) -> None:
    if len(cells) < 2:
        raise UserError(f"{len(cells)} run given, at least 2 are needed: the first is compared with the others")
    if len({cell.folder.resolve() for cell in cells}) < len(cells):
        raise UserError("a run is given twice: give each once")
    for cell in cells:
        if not cell.has_sae or not cell.path("selections").is_file():
            raise UserError(
                f"{str(cell.folder)!r} holds no scored SAE: run `ard table 4` with that --out and --seed first"
            )


def _compare(own: Mapping[str, tuple[Vectors, Vectors]], other: Mapping[str, Vectors]) -> dict[str, _Compared]:
    """Compare two dictionaries by every measure that both have."""
    compared = {}
    for measure in (measure for measure in own if measure in other):
        concepts, live = own[measure]
        nearest = nearest_directions(concepts, other[measure])[0].numpy()
        compared[measure] = _Compared(_pairs(concepts, other[measure]), _pairs(live, other[measure]), nearest)
    return compared


def _pairs(of: Vectors, among: Vectors) -> Pairs:
    """Return the best pairs; NaN for a feature that is silent in all clips, which has no profile."""
    pairs = assigned(cosines(of, among))
    pairs.cosines[~of.any(dim=1).numpy()] = np.nan
    return pairs


def _similarity(
    measure: str, suffix: str, compared: Sequence[Mapping[str, _Compared]]
) -> Float[np.ndarray, "runs features"]:
    """Return the similarity of every concept, or live feature, to its partner in each of the other runs.

    Those without a profile are left out.
    """
    matched = np.stack([(of[measure].live if suffix else of[measure].concepts).cosines for of in compared])
    return matched[:, ~np.isnan(matched).any(axis=0)]


def _strongest(measure: str, suffix: str, nulls: Mapping[str, Sequence[Mapping[str, _Compared]]]) -> str:
    """Return the null that gives the highest mean."""
    means = {name: _similarity(measure, suffix, of).mean() for name, of in nulls.items() if measure in of[0]}
    return max(means, key=lambda name: means[name])


class _Summary(NamedTuple):
    """Turns what was compared into figures."""

    cosine: float
    seed: int

    def figures(self, compared: Sequence[Mapping[str, _Compared]]) -> dict[str, Figure]:
        """Return the figures of each measure, on average over the other runs."""
        figures = {}
        for measure in (measure for measure in WORDS if measure in compared[0]):
            for suffix, over in SCOPES.items():
                matched = _similarity(measure, suffix, compared)
                same = (matched >= self.cosine).mean(axis=0)
                figures[f"{measure}_mcc{suffix}"] = self._of(matched.mean(axis=0), UNITS[measure], over)
                figures[f"{measure}_share{suffix}"] = self._of(same, f"share of the {over}", over)
            if len(compared) > 1:
                means = _similarity(measure, "", compared).mean(axis=1).tolist()
                spread = Figure(float(np.mean(means)), min(means), max(means), len(means), UNITS[measure], over="seeds")
                figures[f"{measure}_mcc_seeds"] = spread
        return figures

    def beyond(
        self,
        compared: Sequence[Mapping[str, _Compared]],
        nulls: Mapping[str, Sequence[Mapping[str, _Compared]]],
    ) -> dict[str, Figure]:
        """Return by how much each measure exceeds its highest null, feature by feature."""
        figures = {}
        for measure in compared[0]:
            for suffix, over in SCOPES.items():
                null = _similarity(measure, suffix, nulls[_strongest(measure, suffix, nulls)]).mean(axis=0)
                excess = _similarity(measure, suffix, compared).mean(axis=0) - null
                figures[f"{measure}_beyond{suffix}"] = self._of(excess, UNITS[measure], over)
        return figures

    def come_back(
        self, compared: Sequence[Mapping[str, _Compared]], name: str, *, control: bool = False
    ) -> dict[str, Figure]:
        """Return the share of concepts for which every other run has a direction like theirs."""
        if "decoder" not in compared[0]:
            return {}
        back = np.all([of["decoder"].nearest >= self.cosine for of in compared], axis=0)
        figure = self._of(back.astype(float), "share of the top-C", "concepts")
        return {name: figure.of_control() if control else figure}

    def names(self, cells: Sequence[Cell]) -> dict[str, Figure]:
        """Return the share of names that come back; nothing where a run has no names."""
        own, *others = [_names(cell) for cell in cells]
        if not own or not all(others):
            return {}
        selected = read_selections(cells[0])["ard"][0].features.tolist()
        return self._of_names([name for feature in selected if (name := own.get(feature))], others)

    def null_names(self, cells: Sequence[Cell]) -> list[Row]:
        """Return what the names of things that are no concepts of the run have in the other runs."""
        others = [_names(cell) for cell in cells[1:]]
        if not all(others):
            return []
        given = {
            OF_COORDINATES: [list(_names(cells[0].run.cell(cells[0].layer, None)).values())],
            OF_RANDOM_CLIPS: read_names(cells[0]).get("random", []) if cells[0].path("names").is_file() else [],
        }
        rows = []
        for control, draws in given.items():
            if listed := [[name for name in draw if name] for draw in draws if any(draw)]:
                figures = [self._of_names(draw, others) for draw in listed]
                middle = sorted(figures, key=lambda of: of["name_share"].value)[len(figures) // 2]
                rows.append(cells[0].row(middle, control=control).as_control())
        return rows

    def _of_names(self, listed: Sequence[str], others: Sequence[Mapping[int, str | None]]) -> dict[str, Figure]:
        back = np.array([all(name in of.values() for of in others) for name in listed], dtype=float)
        once = np.mean([_matched_once(listed, of.values()) for of in others], axis=0)
        return {
            "name_share": self._of(once, "share of the named", "concepts"),
            "name_comes_back": self._of(back, "share of the named", "concepts"),
        }

    def _of(self, samples: Float[np.ndarray, " n"], unit: str, over: str) -> Figure:
        return Figure.estimate(samples, np.mean, unit, over=over, seed=self.seed)


def _matched_once(listed: Sequence[str], there: Iterable[str | None]) -> Float[np.ndarray, " said"]:
    """Return which names are there, each name there being given to one that says it, the first ones first."""
    left = Counter(there)
    matched = np.zeros(len(listed))
    for place, name in enumerate(listed):
        if left[name] > 0:
            left[name] -= 1
            matched[place] = 1
    return matched


def verdict(rows: Sequence[Row], strongest: Mapping[str, str]) -> str:
    """Say in one sentence which measures exceed their strongest null: by an interval that does not reach it.

    Args:
        rows: the rows of the result, the run's own first.
        strongest: the strongest null by measure, and by measure and ``_live``.
    """
    own, controls = rows[0].figures, {row.method.partition(", ")[2]: row.figures for row in rows[1:]}
    sentences = []
    for suffix, over in {"": "top-C", "_live": "live features"}.items():
        beyond: list[str] = []
        chance: list[str] = []
        for measure in UNITS:
            if null := strongest.get(f"{measure}{suffix}"):
                excess = own[f"{measure}_beyond{suffix}"]
                listed = (
                    f"{WORDS[measure]} ({own[f'{measure}_mcc{suffix}'].value:.2f}, {_signed(excess)} against {null})"
                )
                (beyond if excess.low > 0 else chance).append(listed)
        given = [null for null in NAME_NULLS if null in controls]
        if not suffix and "name_share" in own and given:
            null = max(given, key=lambda name: controls[name]["name_share"].value)
            figure, of_null = own["name_share"], controls[null]["name_share"]
            listed = f"{WORDS['name']} ({figure.value:.2f}; {null} {of_null.value:.2f})"
            (beyond if figure.low > of_null.high else chance).append(listed)
        if beyond:
            but = f", but not {', '.join(chance)}" if chance else ""
            sentences.append(f"of the {over}, beyond every null come back {', '.join(beyond)}{but}")
        else:
            sentences.append(f"of the {over}, no more than by chance come back {', '.join(chance)}")
    text = "; ".join(sentences)
    return f"{text[0].upper()}{text[1:]}."


def _signed(figure: Figure) -> str:
    return f"{figure.value:+.2f} [{figure.low:+.2f}, {figure.high:+.2f}]"


def _concepts(
    cells: Sequence[Cell],
    selection: Selection,
    sides: Sequence[Side],
    matches: Sequence[Mapping[str, _Compared]],
) -> list[dict[str, object]]:
    """Return for each concept its nearest direction, and its partner by profile, in each of the other runs."""
    names = [_names(cell) for cell in cells]
    own = sides[0].vectors["decoder"][torch.searchsorted(sides[0].live, selection.features)]
    nearest = [nearest_directions(own, other.vectors["decoder"]) for other in sides[1:]]
    concepts: list[dict[str, object]] = []
    for i, (feature, m) in enumerate(zip(selection.features.tolist(), selection.m.tolist(), strict=True)):
        elsewhere = []
        for (values, places), (_, kept), of, compared in zip(nearest, sides[1:], names[1:], matches, strict=True):
            matched = int(kept[places[i]])
            entry: dict[str, object] = {"feature": matched, "cosine": float(values[i]), "name": of.get(matched)}
            if "profile" in compared:
                pairs = compared["profile"].concepts
                has_partner = pairs.partners[i] >= 0 and not np.isnan(pairs.cosines[i])
                partner = int(kept[pairs.partners[i]]) if has_partner else None
                entry |= {"by_profile": partner, "profile": float(pairs.cosines[i])}
                entry["name_by_profile"] = of.get(partner) if partner is not None else None
            elsewhere.append(entry)
        concepts.append({"feature": feature, "name": names[0].get(feature), "m": m, "elsewhere": elsewhere})
    return concepts


def _names(cell: Cell) -> dict[int, str | None]:
    """Return the names of a cell's features; empty where none were named."""
    if not cell.path("concepts").is_file():
        return {}
    return {row["feature"]: row["name"] for row in cell.rows("concepts")}
