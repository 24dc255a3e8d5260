"""Are names right? Every namer on a finished run of the synthetic corpus, whose truth is known.

``python -m experiments.namers runs/demo`` takes about a minute, writes docs/naming.json and fills the table of
docs/naming.md.

A name is right if it states a label, and at least half of the unseen clips in which its feature is most active have
every label that it states: of the evaluation set, the p clips of highest representativeness (Eq. 2), or fewer where the
feature is active in fewer. A name states a label if it contains its words. Names given to another feature show what the
rule grants to chance, and features of shuffled clips, whose H^k are random clips, should have no name.
"""

import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from rich.console import Console
from torch import Tensor

from ard.activations import read_clips_metadata
from ard.audio.synthetic import LABELS
from ard.embedding import embed_clips, load_clap
from ard.monosemanticity import read_selections
from ard.monosemanticity.chance import draw_clips
from ard.naming import Concepts, ConsensusNamer, LabelNamer, Namer, VocabularyNamer, read_vocabulary
from ard.naming.captions import audiollm_captioner, caption_clips
from ard.naming.contrast import contrast
from ard.naming.functional import labels_in
from ard.probing import read_scores
from ard.results import Figure, Result, Row, write_text
from ard.run import Cell, Run
from experiments.results import ROOT, fill
from experiments.tables import grid

KEPT, PAGE = ROOT / "docs" / "naming.json", ROOT / "docs" / "naming.md"
RATE = 0.05
NUM_SHUFFLES = 20
NUM_DRAWS = 5_000
TEMPLATE = "the sound of {}"

Names = list[str | None]
NameAll = Callable[[Concepts], Names]
COLUMNS = {
    "right": "{num_selected} concepts: right",
    "right_by_chance": "another feature's names",
    "named_live": "{num_live} live features: named",
    "right_live": "right",
    "right_of_named_live": "right, of the named",
    "nameless_shuffled": "shuffled clips: no name",
}


class World(NamedTuple):
    """The clips of a run, and the features to be named."""

    clips: Concepts  # what is known of the probing clips; its captions are of every clip
    top_ids: Int[Tensor, "features p"]  # H^k of every feature
    selected: Int[Tensor, " concepts"]
    live: Int[Tensor, " live"]  # features that are active in p clips or more
    unseen: list[Sequence[str]]  # the labels of every evaluation clip
    scores: Float[Tensor, "unseen features"]  # of the evaluation clips

    def concepts(self, top_ids: Int[Tensor, "some p"]) -> Concepts:
        """Return concepts with these lists for their H^k."""
        captions = [[self.clips.captions[clip][0] for clip in top] for top in top_ids.tolist()]
        return self.clips._replace(top_ids=top_ids, captions=captions)


def read_world(run: Run) -> World:
    """Read a finished run, and caption the probing clips that it has no caption of."""
    cell, model = run.own, run.model
    metadata, stored = read_clips_metadata(cell.probe), cell.tensors("representatives")
    clip_ids, audio, clap = [clip["id"] for clip in metadata], run.audio("probe"), load_clap(run.fact("clap"))
    captions = caption_clips(clip_ids, audio, run.captions, model, partial(audiollm_captioner, model, "cpu", 128), 32)
    top_ids, scores = stored["ard/top_ids"], read_scores(cell, "eval")
    assert scores is not None
    clips = Concepts(
        top_ids,
        [[captions.get(clip_id, "")] for clip_id in clip_ids],
        embed_clips(clap, audio, clip_ids, run.embeddings(clap.name, "probe")),
        clap.text,
        [clip["labels"] for clip in metadata],
    )
    return World(
        clips,
        top_ids,
        read_selections(cell)["ard"][0].features,
        (stored["n_active"] >= top_ids.shape[1]).nonzero()[:, 0],
        [clip["labels"] for clip in read_clips_metadata(_evaluation(cell))],
        scores.dense("ard", torch.arange(len(top_ids))),
    )


def _evaluation(cell: Cell) -> Path | str:
    assert cell.evaluation is not None
    return cell.evaluation


def is_right(world: World, features: Int[Tensor, " some"], names: Names) -> Float[np.ndarray, " some"]:
    """Say of every feature's name whether it is right; NaN for a feature that is active in no unseen clip."""
    p, right = world.top_ids.shape[1], np.full(len(names), np.nan)
    for place, (feature, name) in enumerate(zip(features.tolist(), names, strict=True)):
        values, clips = world.scores[:, feature].topk(p)
        active = clips[values > 0].tolist()
        if active:
            stated = labels_in(name, LABELS)
            shares = [np.mean([label in world.unseen[clip] for clip in active]) for label in stated]
            right[place] = bool(stated) and min(shares) >= 0.5
    return right


def all_names(folder: Path) -> dict[str, NameAll]:
    """Return every way to name concepts; the true vocabulary and a longer list are written to a folder."""
    label_words = {word for label in LABELS for word in label.split()}
    others = [one for one in read_vocabulary("audioset") if not label_words & set(one.lower().replace(",", "").split())]
    made: dict[str, NameAll] = {"captions, their consensus": partial(by, ConsensusNamer())}
    for words, phrases in (("true vocabulary", LABELS), ("with AudioSet's", [*LABELS, *others])):
        path = folder / f"{len(phrases)}.txt"
        path.write_text("\n".join(phrases), encoding="utf-8")
        head = f"{words} ({len(phrases)})"
        made |= {
            f"{head}, contrast": partial(by, VocabularyNamer(str(path), rate=RATE)),
            f"{head}, cosine, same test": partial(by_cosine, phrases),
            f"{head}, contrast, untested": partial(by_contrast_alone, phrases, "{}"),
            f"{head}, contrast, untested, “the sound of”": partial(by_contrast_alone, phrases, TEMPLATE),
            f"{head}, cosine, untested": partial(by_cosine, phrases, rate=1.0),
        }
    return {**made, "labels": partial(by, LabelNamer(rate=RATE))}


def by(namer: Namer, concepts: Concepts) -> Names:
    """Name concepts by a namer."""
    return [name.name for name in namer(concepts)]


def by_contrast_alone(phrases: Sequence[str], template: str, concepts: Concepts) -> Names:
    """Name every concept by the phrase of the highest contrast, whether or not it beats chance."""
    assert concepts.embed is not None
    texts = concepts.embed([template.format(phrase) for phrase in phrases])
    return [phrases[row] for row in contrast(texts, concepts.embeddings, concepts.top_ids).argmax(dim=0).tolist()]


def by_cosine(phrases: Sequence[str], concepts: Concepts, rate: float = RATE) -> Names:
    """Name concepts by the phrase of the highest mean cosine, if it beats random lists of clips at a rate."""
    assert concepts.embed is not None
    texts, clips = concepts.embed(phrases), concepts.embeddings
    drawn = draw_clips(len(clips), concepts.top_ids.shape[1], NUM_DRAWS, torch.Generator().manual_seed(0))
    chance = (texts @ clips[drawn].mean(dim=1).T).max(dim=0).values.sort().values
    highest, rows = (texts @ clips[concepts.top_ids].mean(dim=1).T).max(dim=0)
    p_values = (1 + len(chance) - torch.searchsorted(chance, highest)) / (1 + len(chance))
    named = zip(rows.tolist(), p_values.tolist(), strict=True)
    return [phrases[row] if p_value <= rate else None for row, p_value in named]


def measure(world: World, name: NameAll, row: Callable[..., Row]) -> tuple[Row, Float[np.ndarray, " live"]]:
    """Return the figures of one way to name features, and which of the live features' names are right."""
    figures: dict[str, Figure] = {}
    right = np.empty(0)
    for suffix, features in (("", world.selected), ("_live", world.live)):
        names = name(world.concepts(world.top_ids[features]))
        right, has_name = is_right(world, features, names), np.array([name is not None for name in names])
        judged = ~np.isnan(right)
        figures |= {
            f"named{suffix}": _share(has_name),
            f"right{suffix}": _share(right[judged]),
            f"right_of_named{suffix}": _share(right[judged & has_name]),
        }
        if not suffix:
            others = is_right(world, features, names[1:] + names[:1])
            figures["right_by_chance"] = _share(others[~np.isnan(others)]).of_control()
    nameless = []
    for seed in range(NUM_SHUFFLES):
        shuffled = torch.randperm(len(world.clips.labels), generator=torch.Generator().manual_seed(seed))
        names = name(world.concepts(shuffled[world.top_ids[world.selected]]))
        nameless.append(_share(np.array([name is None for name in names])))
    return row({**figures, "nameless_shuffled": Figure.pooled(nameless)}), right


def _share(samples: Bool[np.ndarray, " some"] | Float[np.ndarray, " some"]) -> Figure:
    return Figure.estimate(samples.astype(float), np.mean, "share of features", over="features", seed=0)


def compare(run: Run) -> Result:
    """Measure every namer on a run."""
    world = read_world(run)
    rows, right = [], {}
    with tempfile.TemporaryDirectory() as scratch:
        for words, name in all_names(Path(scratch)).items():
            row, right[words] = measure(world, name, partial(Row, words, run.layer, run.expansion))
            rows.append(row)
    differences = {
        words: _written(right[words] - right[words.replace("contrast", "cosine")])
        for words in right
        if words.endswith("contrast, untested")
    }
    details = {
        "num_clips": len(world.clips.labels),
        "num_unseen": len(world.unseen),
        "num_selected": len(world.selected),
        "num_live": len(world.live),
        "num_not_judged": int(np.isnan(right["labels"]).sum()),
        "contrast_minus_cosine": differences,
    }
    choices = {"rate": RATE, "p": run.p, "num_shuffles": NUM_SHUFFLES, "template": TEMPLATE}
    return Result("namers", tuple(rows), choices, details, seed=run.seed)


def _written(difference: Float[np.ndarray, " live"]) -> dict[str, float]:
    figure = Figure.estimate(difference[~np.isnan(difference)], np.mean, "share of features", over="features", seed=0)
    return {"value": figure.value, "low": figure.low, "high": figure.high}


def render(result: Result) -> str:
    """Return the table of the page, and what stands below it."""
    about: Mapping[str, Any] = result.details
    lines = [["Names from", *(column.format(**about) for column in COLUMNS.values())]]
    lines += [[row.method, *(_text(row.figures[name]) for name in COLUMNS)] for row in result.rows]
    notes = [
        f"- {words}, minus cosine: right {of['value']:+.3f} [{of['low']:+.3f}, {of['high']:+.3f}] of the live features."
        for words, of in about["contrast_minus_cosine"].items()
    ]
    return "\n".join([grid(lines), "", *notes])


def _text(figure: Figure) -> str:
    return f"{figure.value:.2f} [{figure.low:.2f}, {figure.high:.2f}]"


def main(folders: Sequence[str]) -> None:
    """Measure a run if its folder is given, and fill the page."""
    for folder in folders:
        compare(Run.load(Path(folder))).save(KEPT)
    table = render(Result.load(KEPT))
    write_text(PAGE, fill(PAGE.read_text(encoding="utf-8"), {"namers": table}))
    say: Any = Console(soft_wrap=True, highlight=False, markup=False).print
    say(table)


if __name__ == "__main__":
    main(sys.argv[1:])
