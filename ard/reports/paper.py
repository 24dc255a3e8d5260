"""The paper's figures, as printed (arXiv 2602.22253, Tables 1 to 4), and its order of methods and of shifts."""

from collections.abc import Mapping
from typing import NamedTuple

from ard.results import CONTROL_METHODS


class Printed(NamedTuple):
    """One figure as the paper prints it, with what it prints after the plus-minus sign, if anything."""

    value: float
    plus_minus: float | None = None


def _printed(**figures: float | tuple[float, float]) -> dict[str, Printed]:
    """Return a row by metric, from figures, or pairs of a figure and what follows its plus-minus sign."""
    return {name: Printed(*x) if isinstance(x, tuple) else Printed(x) for name, x in figures.items()}


LAYER, EXPANSION = 26, 8
"""The cell that the paper measures unless it says otherwise."""

LAYERS = (5, 16, 26)

COMPARED = ("Poly. Feats.", "Rand. Rep.", "Mean Act.", "Coverage", "AR&D")
"""What the paper compares, in its order."""

SHUFFLED, CEILING = "AR&D, names shuffled", "Labels as names"

CAPTION_CEILING = "Captions as names"

BY_EFFECT = ", by effect"

RANDOM = ("Rand. Feats.", "Rand. directions")

METHODS = (
    "No SAE",
    "SAE, no clamp",
    *RANDOM,
    *(
        f"{method}{how}"
        for method in CONTROL_METHODS.values()
        for how in ("", BY_EFFECT, *(f", {random}" for random in RANDOM))
    ),
    "Prompt",
    "Difference of means",
    "Linear probe",
    "Audio minus silence",
    *(f"{method}{how}" for method in ("Poly. Feats.", "Poly. Feats., half-waves") for how in ("", BY_EFFECT)),
    *COMPARED[1:],
    f"AR&D{BY_EFFECT}",
    "Reverse",
    SHUFFLED,
    CAPTION_CEILING,
    CEILING,
)
"""The order of rows. Of these the paper has only what it compares: no untrained dictionaries, controls or ceilings."""

METRICS = {"ms": "MS", "precision": "Precision", "recall": "Recall", "f1": "F1", "map": "mAP"}
"""The columns of Table 1: a figure of ``matching.json``, or ``<evaluation>/<figure>`` of another result."""

TABLE1: Mapping[tuple[str, int], Mapping[str, Printed]] = {
    ("Poly. Feats.", 26): _printed(ms=1.14, precision=0.05, recall=0.20, f1=0.08, map=0.05),
    ("Rand. Rep.", 26): _printed(
        ms=(2.13, 0.08), precision=(0.11, 0.05), recall=(0.23, 0.06), f1=(0.15, 0.04), map=(0.10, 0.05)
    ),
    ("Mean Act.", 26): _printed(ms=4.76, precision=0.42, recall=0.42, f1=0.42, map=0.36),
    ("Coverage", 26): _printed(ms=5.28, precision=0.46, recall=0.44, f1=0.45, map=0.39),
    ("AR&D", 5): _printed(ms=9.17, precision=0.48, recall=0.51, f1=0.49, map=0.47),
    ("AR&D", 16): _printed(ms=9.31, precision=0.52, recall=0.58, f1=0.55, map=0.53),
    ("AR&D", 26): _printed(ms=9.33, precision=0.55, recall=0.65, f1=0.60, map=0.58),
}
"""By method and layer."""

TABLE1_MS_NOTE = (
    "The paper's MS of AR&D in its Table 1 (9.17, 9.31, 9.33 at layers 5, 16, 26) is the layer-26 column of its "
    "Table 4 (e = 4, 8, 16); there, e = 8 has 7.01, 7.85 and 9.31 at the three layers. Both are shown as printed; "
    "Table 4 is the one to trust."
)

JUDGED = {"expert_score": "Expert-rated score", "clap_cosine": "CLAP cosine", "bertscore": "BERTScore"}

TABLE2: Mapping[str, Mapping[str, Printed]] = {
    "Poly. Feats.": _printed(expert_score=(2.13, 0.79), clap_cosine=(0.47, 0.41), bertscore=(0.23, 0.41)),
    "AR&D": _printed(expert_score=(4.29, 0.81), clap_cosine=(0.84, 0.20), bertscore=(0.92, 0.11)),
}
"""By method; what follows the sign is the spread."""

SHIFTS = (("neutral", "happy"), ("sad", "happy"), ("happy", "angry"), ("female", "male"))

TABLE3: Mapping[str, Mapping[tuple[str, str], Printed]] = {
    method: {shift: Printed(figure) for shift, figure in zip(SHIFTS, figures, strict=True)}
    for method, figures in (
        ("Poly. Feats.", (0.13, 0.08, 0.04, 0.09)),
        ("AR&D", (0.75, 0.68, 0.47, 0.61)),
    )
}
"""By method and shift."""

TABLE4: Mapping[tuple[str, int | None], Mapping[int, Printed]] = {
    (method, expansion): {layer: Printed(figure) for layer, figure in zip(LAYERS, figures, strict=True)}
    for method, expansion, figures in (
        ("Poly. Feats.", None, (0.68, 1.02, 1.14)),
        ("AR&D", 4, (6.86, 7.34, 9.17)),
        ("AR&D", 8, (7.01, 7.85, 9.31)),
        ("AR&D", 16, (7.06, 7.89, 9.33)),
    )
}
"""By method and expansion factor, then by layer."""


def counterparts(layers: tuple[int, ...], main: int) -> dict[int, int]:
    """Return for each layer of a run the layer of the paper that it is shown beside.

    The paper's own layers are shown beside themselves. Three others of which ``main`` is the deepest are shown beside
    the paper's three, by depth. In any other run only ``main`` has a counterpart, the paper's 26.
    """
    if set(layers) <= set(LAYERS):
        return {layer: layer for layer in layers}
    if len(layers) == len(LAYERS) and main == max(layers):
        return dict(zip(sorted(layers), LAYERS, strict=True))
    return {main: LAYER}
