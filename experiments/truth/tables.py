"""The page: every figure as the mean and the standard deviation over seeds, and what loses to `paper`."""

import math
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from ard.results import sealed, unsealed, write_json, write_text
from experiments.bench.report import machine
from experiments.truth.generator import BRANCHING, CORRELATION, Setting, pairs, parents
from experiments.truth.measures import CARRIED, MATCHED
from experiments.truth.trainers import BOUNDS, COMBINED, GROUPS, OPTIONS, OURS, PAPER, PEERS

FIGURES = {
    "num_live": "live latents",
    "precision": "precision of directions",
    "recall": "recall of directions",
    "cosine": "mean cosine",
    "firing_precision": "precision of firing",
    "firing_recall": "recall of firing",
    "firing_f1": "F1 of firing",
    "f1": "F1 of firing, all features",
    "silent": "parent silent beside a child",
    "absorbed": "absorbed by the child",
    "silent_alone": "parent silent alone",
    "fvu": "FVU",
    "l0": "L0",
}
"""The columns, by the name of the figure."""

BETTER = {"precision": 1, "recall": 1, "f1": 1, "absorbed": -1}
"""The figures in which an option can lose: 1 where more is better, -1 where less is."""


def ks(l0: float) -> tuple[int, int, int]:
    """Return the K that is the true L0, one that is too small and one that is too large."""
    k = max(round(l0), 2)
    return k, k // 2, 2 * k


def every(l0: float) -> list[tuple[str, int]]:
    """Return every trainer and K that is measured, what matters most first."""
    k, *others = ks(l0)
    of_true_k = [(name, k) for name in (*BOUNDS, *OURS, *PEERS)]
    return [*of_true_k, *((n, o) for o in others for n in OURS), *((name, k) for name in COMBINED)]


class Difference(NamedTuple):
    """A figure of an option minus that of `paper` with the same seed: mean and standard deviation over seeds."""

    mean: float
    spread: float

    def __str__(self) -> str:
        """Return it with a sign, or a dash where a seed had nothing to measure."""
        return "–" if math.isnan(self.mean) else f"{self.mean:+.3f} ± {self.spread:.3f}"

    def loses(self, better: int) -> bool:
        """Return whether it is worse by more than its spread."""
        return better * self.mean < -self.spread


class Cells:
    """What was measured, by trainer, K and seed."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.content = content
        self.ks = ks(content["l0"])

    def of(self, name: str, k: int, figure: str) -> Float[np.ndarray, "seeds ..."]:
        """Return a figure of every seed, NaN where there was nothing to measure."""
        chosen = [cell for cell in self.content["cells"] if (cell["trainer"], cell["k"]) == (name, k)]
        in_order = sorted(chosen, key=lambda cell: cell["seed"])
        return np.array([cell[figure] for cell in in_order], dtype=float)

    def difference(self, option: str, k: int, figure: str) -> Difference:
        """Return what an option has more than `paper`."""
        by_seed = self.of(option, k, figure) - self.of(PAPER, k, figure)
        return Difference(float(by_seed.mean()), float(by_seed.std(ddof=1)))

    def has(self, name: str, k: int) -> bool:
        """Return whether it was run with every seed."""
        return len(self.of(name, k, "recall")) == len(self.content["seeds"])

    def losses(self, option: str, k: int) -> list[str]:
        """Return the figures in which an option loses to `paper`."""
        return [figure for figure, better in BETTER.items() if self.difference(option, k, figure).loses(better)]


def shown(values: Float[np.ndarray, " seeds"]) -> str:
    """Return a mean and its standard deviation over seeds; nothing where no seed had anything to measure."""
    numbers = values[np.isfinite(values)]
    if not len(numbers):
        return ""
    digits = 0 if numbers.mean() >= 20 else 1 if numbers.mean() >= 2 else 3
    spread = f" ± {numbers.std(ddof=1):.{digits}f}" if len(numbers) > 1 else ""
    return f"{numbers.mean():.{digits}f}{spread}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def all_figures(cells: Cells) -> str:
    """Return the table of all trainers at the true K."""
    k = cells.ks[0]
    names = [name for name in (*BOUNDS, *OURS, *COMBINED, *PEERS) if cells.has(name, k)]
    rows = [[name, *(shown(cells.of(name, k, figure)) for figure in FIGURES)] for name in names]
    return table(["trainer", *FIGURES.values()], rows)


def other_ks(cells: Cells) -> str:
    """Return the table of K too small, right, too large."""
    figures = ("num_live", *BETTER, "fvu", "l0")
    run = [(name, k) for name in OURS for k in sorted(cells.ks) if cells.has(name, k)]
    rows = [[f"{name}, K {k}", *(shown(cells.of(name, k, figure)) for figure in figures)] for name, k in run]
    return table(["trainer", *(FIGURES[figure] for figure in figures)], rows)


def beside_paper(cells: Cells) -> str:
    """Return the table of differences, those that lose in bold."""
    rows = []
    compared = [*((o, k) for o in OPTIONS for k in cells.ks), *((c, cells.ks[0]) for c in COMBINED)]
    for option, k in compared:
        if not (cells.has(option, k) and cells.has(PAPER, k)):
            continue
        lost = cells.losses(option, k)
        found = {figure: str(cells.difference(option, k, figure)) for figure in BETTER}
        rows.append([f"{option}, K {k}", *(f"**{x}**" if f in lost else x for f, x in found.items())])
    return table(["minus `paper`", *(FIGURES[figure] for figure in BETTER)], rows)


def lost(cells: Cells) -> str:
    """Return a line an option: in what it loses."""
    lines = []
    for option in OPTIONS:
        run = [k for k in cells.ks if cells.has(option, k) and cells.has(PAPER, k)]
        by_k = {k: ", ".join(FIGURES[figure] for figure in cells.losses(option, k)) for k in run}
        said = "; ".join(f"with K {k} in {words}" for k, words in by_k.items() if words)
        lines.append(f"- {option} loses {said}." if said else f"- {option} loses in none of them.")
    return "\n".join(lines)


def by_decile(cells: Cells, figure: str) -> str:
    """Return the table of a figure by frequency, at the true K."""
    k = cells.ks[0]
    names = [name for name in (*BOUNDS, *OURS, *COMBINED, *PEERS) if name != "true codes" and cells.has(name, k)]
    rows = [[name, *(f"{x:.2f}" for x in cells.of(name, k, figure).mean(axis=0))] for name in names]
    return table(["trainer", *(f"{place}." for place in range(1, len(rows[0])))], rows)


def not_run(cells: Cells) -> str:
    """Return what of the comparison is missing, if anything is."""
    missing = [f"{name}, K {k}" for name, k in every(cells.content["l0"]) if not cells.has(name, k)]
    return f"\nNot run with every seed: {'; '.join(missing)}.\n" if missing else ""


def page(content: Mapping[str, Any]) -> str:
    """Return the page from what docs/truth.json keeps."""
    cells, setting = Cells(content), Setting(**content["setting"])
    parent = parents(setting)
    return TEMPLATE.format(
        **{**content, **content["size"], **content["test"], **setting._asdict()},
        of_seeds=", ".join(map(str, content["seeds"])),
        l0_true=content["l0"],
        num_parents=int(parent.max()) + 1,
        branching=BRANCHING,
        num_pairs=len(pairs(setting, parent)),
        correlation=CORRELATION,
        matched=MATCHED,
        carried=CARRIED,
        groups=", ".join(map(str, GROUPS)),
        k=cells.ks[0],
        small=cells.ks[1],
        large=cells.ks[2],
        minutes=sum(cell["cpu_seconds"] for cell in content["cells"]) / 60,
        figures=all_figures(cells),
        other_ks=other_ks(cells),
        beside_paper=beside_paper(cells),
        lost=lost(cells),
        not_run=not_run(cells),
        recall_by_decile=by_decile(cells, "recall_by_decile"),
        f1_by_decile=by_decile(cells, "f1_by_decile"),
    )


def read_content(folder: Path) -> dict[str, Any]:
    """Return what docs/truth.json keeps."""
    return unsealed((folder / "truth.json").read_bytes())


def write_page(content: Mapping[str, Any], folder: Path) -> None:
    """Write truth.json and truth.md."""
    whole = {"date": str(date.today()), "machine": machine(), **content}
    write_json(folder / "truth.json", sealed(whole))
    write_text(folder / "truth.md", page(whole))


TEMPLATE = """# What training finds of features that are known

Made by `{command}` on {date}; not by hand. {machine}. The trainings took {minutes:.0f} minutes of CPU time,
on a machine that others may have used; `make bench` has what a step costs.

Nobody knows the features of a real model. Here tokens are made of known ones, so that a trainer can be asked what it
found. The tokens are in the manner of SynthSAEBench (Chanin and Garriga-Alonso 2026,
[arXiv 2602.14687](https://arxiv.org/abs/2602.14687)), at a size for a CPU and by our own code; the figures are not
comparable with those of SynthSAEBench-16k.

- {num_features} features in {width} dimensions: random unit directions. A token is the sum of the directions that fire
  in it, times their activations, plus a vector that all tokens share (norm {bias:g}), plus noise (standard deviation
  {noise:g} in every dimension).
- Zipf: the feature of rank r fires in {most:g} / r^{exponent:g} of the tokens; {l0_true:.1f} fire in a token on
  average.
- {num_parents} parents with {branching} children each: a child fires only where its parent does, and at most one child
  of a parent fires. Children have the frequency of their rank nonetheless.
- {num_pairs} pairs that fire together more often than by chance (a Gaussian copula, correlation {correlation:g}).

Every trainer has {steps} steps of {batch_tokens} tokens, all of them the same tokens, and as many latents as there are
features. It is measured on {num_batches} x {num_tokens} other tokens of the same features. Figures are means ± standard
deviations over seeds ({of_seeds}): features, tokens and first weights are of the seed.

*Ours* is trained by `ard.sae.SAETraining`, with the learning rate and the AuxK of configs/demo/fit.yaml; Matryoshka has
groups of {groups} of the features. `batch_top_k` and `matryoshka` alone are changes of `paper`. *The peers* are trained
by their own trainers with their own defaults, which are meant for much longer trainings: dictionary_learning's learning
rate first rises for 1000 steps, SAELens' is 3e-4, sparsify's optimizer is signum. So SAELens has rows with our learning
rate too, and sparsify one with Adam. sparsify's Trainer takes activations from a model: it is given one whose only
layer returns these tokens.

The floor is an *untrained* SAE: random unit directions, the encoder their transpose, centred by what all tokens share.
The ceiling is the *true directions*, with their transpose as the encoder or with an encoder that is trained
(`robust`), and the *true codes* themselves.

## What is measured

- Live latents fire in some of the tokens. They are matched to features one to one, with the highest sum of cosines. A
  feature is recovered from a cosine of {matched:g}. *Precision* is the share of the live latents that recover a
  feature, *recall* the share of the features recovered. The *mean cosine* is over all features, 0 where no latent is
  left; it is SynthSAEBench's MCC but for the sign, which here has to be right, and dead latents, which match nothing.
- *Firing*: whether a recovered feature's latent fires where the feature does, as means over recovered features. The F1
  over all features takes each with its latent, whatever their cosine: untrained SAEs have one too.
- *Absorption* (Chanin et al. 2024, [arXiv 2409.14507](https://arxiv.org/abs/2409.14507)): of the tokens in which a
  recovered parent and its child fire, the share in which the parent's latent is silent; and the share in which,
  besides, the child's latent writes at least {carried:g} of the parent's activation along the parent's direction. Means
  over children. For comparison, how often the parent's latent is silent where no child fires.
- FVU is the share of the variance that is not reconstructed; the true codes' is the noise.

## With K {k}, the true L0

{figures}
{not_run}
## With K too small, and too large

{other_ks}

## Options beside `paper`

Differences of the same seed, in bold where an option is worse by more than their standard deviation over seeds. A dash
is where, with some seed, nothing could be measured, as absorption without a recovered parent.

{beside_paper}

By that:

{lost}

## By frequency

Features by tenths, the most frequent first, with K {k}. Recall of directions:

{recall_by_decile}

F1 of firing, all features:

{f1_by_decile}

## What this cannot show

Real activations need not be sums of sparse directions, and where they are, nobody knows the frequencies, trees and
noise. Trainings are short and small: an order of trainers here is one at this size, and what is rare is found late. The
number of features that fire differs from token to token, which a K per token cannot follow and a threshold can.
"""
