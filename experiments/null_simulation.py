"""Hold what `above chance` claims against what it finds where the truth is known.

``python -m experiments.null_simulation`` takes about a minute. Features are simulated over clips in many orders of the
data set, under every rule of ties, and tested as ``ScoreMonosemanticity`` does. Most have activations that say nothing
about the embeddings; of some, the clips of H^k are of one concept. The table is written to docs/null.md.
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.stats import kstest
from torch import Tensor
from torch.nn.functional import normalize

from ard.monosemanticity import score_lists
from ard.monosemanticity.chance import RandomLists, compare_with_chance, draw_clips, random_lists
from ard.monosemanticity.functional import Moments, contrast, q_values
from ard.representatives import Ties
from ard.representatives.functional import tie_keys
from ard.results import write_text

PAGE = Path("docs/null.md")
P, RATE = 4, 0.05
NUM_CONCEPTS, D, SPREAD = 60, 32, 1.2  # concepts of the clips; how far a clip is from its concept, against 1


class Size(NamedTuple):
    """How much is simulated."""

    num_orders: int = 20
    num_clips: int = 1200
    num_features: int = 982
    num_true: int = 60
    num_null_draws: int = 20_000


class Found(NamedTuple):
    """What a null found in one order of the data set."""

    p_value: Float[Tensor, " features"]  # H drawn at random from all clips, as of `Rand. Rep.`
    retrieved: Float[Tensor, " features"]  # H of random activations
    false: int  # features that pass though H is random, among true ones
    true: int  # true ones that pass


class World(NamedTuple):
    """The clips of one order, and the lists of features that mean nothing."""

    embeddings: Float[Tensor, "clips d"]
    concepts: Int[Tensor, " clips"]
    top: Int[Tensor, "features p"]
    bottom: Int[Tensor, "features p"]


def simulate(size: Size, ties: Ties, generator: torch.Generator) -> World:
    """Draw clips in random order, and features that are active in few to most of them at random."""
    concepts = torch.randint(NUM_CONCEPTS, (size.num_clips,), generator=generator)
    centres = normalize(torch.randn(NUM_CONCEPTS, D, generator=generator), dim=1)
    noise = torch.randn(size.num_clips, D, generator=generator) / D**0.5
    embeddings = normalize(centres[concepts] + SPREAD * noise, dim=1)
    share = 10 ** (-2.5 + 2.2 * torch.rand(size.num_features, 1, generator=generator))  # of clips: .003 to .5
    scores = torch.rand(size.num_features, size.num_clips, generator=generator)
    active = torch.rand(scores.shape, generator=generator) < share
    if ties == "preact":  # where features are silent, their pre-activations differ as well
        place = torch.rand(scores.shape, generator=generator).double()
    else:
        keys = tie_keys(torch.arange(size.num_clips), torch.arange(size.num_features)[:, None], ties, seed=0)
        place = (keys.double() / (1 + keys.max())).expand_as(scores)
    top = torch.where(active, 1 + scores, -place).topk(P, dim=1).indices
    bottom = torch.where(active, 1 + scores, place).topk(P, dim=1, largest=False).indices
    return World(embeddings, concepts, top, bottom)


def concept_lists(world: World, num_true: int, generator: torch.Generator) -> Int[Tensor, "true p"]:
    """Draw the H^k of true features: clips of one concept."""
    ranked = [torch.nonzero(world.concepts == concept)[:, 0] for concept in range(NUM_CONCEPTS)]
    large = [clips for clips in ranked if len(clips) >= P]
    drawn = torch.randint(len(large), (num_true,), generator=generator).tolist()
    return torch.stack([large[i][torch.randperm(len(large[i]), generator=generator)[:P]] for i in drawn])


def given_lowest(
    world: World, top: Int[Tensor, "features p"], drawn: RandomLists, generator: torch.Generator
) -> Float[Tensor, " features"]:
    """Return p-values as ``ScoreMonosemanticity`` does: H random, L^k kept."""
    m = score_lists(world.embeddings, top, world.bottom)
    return compare_with_chance(m, top, world.bottom, world.embeddings, drawn, generator=generator).p_value


def pooled(
    world: World, top: Int[Tensor, "features p"], drawn: RandomLists, generator: torch.Generator
) -> Float[Tensor, " features"]:
    """Return p-values against one distribution for all features, with L random too: for comparison."""
    del generator
    m = score_lists(world.embeddings, top, world.bottom)
    others = Moments(*(of_lists.roll(1) for of_lists in drawn.moments))
    chance = contrast(drawn.moments, others).sort().values
    return (1 + len(chance) - torch.searchsorted(chance, m)).double() / (1 + len(chance))


NULLS = {"given each L^k": given_lowest, "pooled, L random": pooled}


def run(size: Size, ties: Ties, seed: int) -> dict[str, list[Found]]:
    """Test the same features by both nulls, in every order."""
    generator, found = torch.Generator().manual_seed(seed), {null: list[Found]() for null in NULLS}
    for _ in range(size.num_orders):
        world = simulate(size, ties, generator)
        drawn = random_lists(world.embeddings, P, size.num_null_draws, generator=generator)
        at_random = draw_clips(size.num_clips, P, size.num_features, generator)
        true = concept_lists(world, size.num_true, generator)
        mixed = torch.cat([true, at_random[size.num_true :]])
        for null, p_values in NULLS.items():
            passed = q_values(p_values(world, mixed, drawn, generator)) <= RATE
            found[null].append(
                Found(
                    p_values(world, at_random, drawn, generator),
                    p_values(world, world.top, drawn, generator),
                    int(passed[size.num_true :].sum()),
                    int(passed[: size.num_true].sum()),
                )
            )
    return found


def line(ties: str, null: str, found: Sequence[Found], num_true: int) -> list[str]:
    """Return the cells of one row."""
    below = np.array([float((of_order.p_value < RATE).double().mean()) for of_order in found])
    retrieved = np.array([float((of_order.retrieved < RATE).double().mean()) for of_order in found])
    uniform = np.array([kstest(of_order.p_value.numpy(), "uniform").pvalue for of_order in found])
    any_found = np.mean([bool((q_values(of_order.p_value) <= RATE).any()) for of_order in found])
    false = np.array([of_order.false / max(of_order.false + of_order.true, 1) for of_order in found])
    power = np.mean([of_order.true for of_order in found]) / num_true
    return [
        f"`{ties}`",
        null,
        f"{below.mean():.3f} ({below.min():.3f} to {below.max():.3f})",
        f"{retrieved.mean():.3f} ({retrieved.min():.3f} to {retrieved.max():.3f})",
        f"{np.mean(uniform < RATE):.2f}",
        f"{any_found:.2f}",
        f"{false.mean():.3f} (at most {false.max():.3f})",
        f"{power:.2f}",
    ]


def table(size: Size, seed: int) -> str:
    """Return the table: a row for each rule of ties and null."""
    heads = [
        "ties",
        "null",
        "p < .05, H random",
        "p < .05, H retrieved",
        "orders with KS p < .05",
        "orders with any finding",
        "false among found",
        "true ones found",
    ]
    claimed = [
        "",
        "claimed",
        "0.050",
        "0.050",
        "0.05",
        "0.05",
        f"0.05 x {1 - size.num_true / size.num_features:.2f}",
        "",
    ]
    rows = [heads, ["---"] * len(heads), claimed]
    for ties in get_args(Ties):
        of_ties: Mapping[str, Sequence[Found]] = run(size, ties, seed)
        rows += [line(ties, null, found, size.num_true) for null, found in of_ties.items()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def page(size: Size, seed: int, command: str) -> str:
    """Return the page."""
    return TEMPLATE.format(
        command=command, seed=seed, date=date.today().isoformat(), table=table(size, seed), rate=RATE, **size._asdict()
    )


TEMPLATE = """# What `above chance` claims, and what it finds

Made by `{command}` (seed {seed}) on {date}; not by hand.

In each of {num_orders} random orders of {num_clips} clips, {num_features} features are active in few to half of the
clips, whatever these are. L^k is retrieved under each rule of ties. H^k is drawn at random from all clips, as of
`Rand. Rep.`, or retrieved by the features' own random activations. In the last two columns, {num_true} of the features
have an H^k of one concept, and features pass at a false-discovery rate of {rate}. Chance is {num_null_draws} random H.

- *given each L^k* is what ard does: H is drawn at random, and every feature keeps its L^k.
- *pooled, L random* is what it did before: both are drawn, once for all features. Under `stable` and `shared_random`,
  most features share an L^k, so that they all pass together or not at all, by the order of the data set.

Means over the orders, with the lowest and the highest order in brackets. KS is the Kolmogorov-Smirnov test of the
p-values of random H against the uniform distribution.

{table}
"""


def main(args: Sequence[str]) -> None:
    """Simulate, print the page and write it."""
    parser = argparse.ArgumentParser(prog="python -m experiments.null_simulation", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num_orders", type=int, default=Size().num_orders)
    parser.add_argument("--out", type=Path, default=PAGE)
    given = parser.parse_args(args)
    started = time.monotonic()
    command = " ".join(["python -m experiments.null_simulation", *args])
    text = page(Size(num_orders=given.num_orders), given.seed, command)
    write_text(given.out, text)
    sys.stdout.write(f"{text}\n{time.monotonic() - started:.0f} s\n")


if __name__ == "__main__":
    main(sys.argv[1:])
