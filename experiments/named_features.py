"""Are the features that names find what they are named? ``python -m experiments.named_features runs/demo``.

Table 3 steers the features whose names are closest to a target, such as `man speaking` for `male`. Here they are put to
the corpus's own truth: the AUROC of a feature's score (Eq. 2, its mean activation) for whether the speaker of a clip is
of that gender, or shows that emotion, over clips of the evaluation set, which neither SAE nor names were made of.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from rich.console import Console
from torch import Tensor

from ard.activations import read_manifest
from ard.activations.layer import read_layer
from ard.activations.store import read_clip_metadata
from ard.evaluation.functional import auroc
from ard.probing import clip_scores
from ard.results import Figure, Result
from ard.run import Run
from ard.sae import TopKSAE

HEAD = ("target", "feature", "name", "AUROC among all clips", "AUROC among voices", "voices with the target")


class Found(NamedTuple):
    """A feature that a target's words found among the names."""

    target: str
    feature: int
    name: str
    among_all: Figure  # AUROC
    among_voices: Figure  # likewise, of the clips in which someone speaks
    num_voices: tuple[int, int]  # with the target, and in all


def found_features(run: Run) -> list[Found]:
    """Return the features that steering chose for each target, the closest name first."""
    details = Result.load(run.own.result_path("steering")).details
    extracted = run.folder / "activations-eval"
    clips = [clip for shard in read_manifest(extracted).shards for clip in read_clip_metadata(extracted, shard)]
    scores = score_clips(TopKSAE.from_pretrained(run.own.sae), extracted, run.layer)
    voices = np.array([clip.get("gender") is not None for clip in clips])
    found = []
    for shift, features in chosen_features(details).items():
        target = shift.rpartition(" to ")[2]
        true = np.array([target in (clip.get("gender"), clip.get("emotion")) for clip in clips])
        for number, name in features.items():
            score = scores[:, number].numpy()
            everywhere, spoken = (_figure(score[part], true[part]) for part in (slice(None), voices))
            found.append(Found(target, number, name, everywhere, spoken, (int(true.sum()), int(voices.sum()))))
    return list(dict.fromkeys(found))  # two shifts may have the same target


def chosen_features(details: Mapping[str, Any]) -> dict[str, dict[int, str]]:
    """Return, from the details of ``steering.json``, the features that each shift was steered by, with their names."""
    return {
        shift: {feature["feature"]: feature["name"] for feature in task["chosen"]["features"]}
        for shift, task in details["tasks"].items()
    }


def _figure(score: np.ndarray, true: np.ndarray) -> Figure:
    def area(samples: np.ndarray) -> float:
        return float(auroc(samples[:, :1], samples[:, 1:].astype(bool))[0, 0])

    return Figure.estimate(np.stack([score, true], axis=1), area, "AUROC", over="clips", seed=0)


@torch.no_grad()
def score_clips(sae: TopKSAE, extracted: Path, layer: int) -> Float[Tensor, "clips features"]:
    """Return the mean activation of every feature in every clip, a shard at a time."""
    scores = []
    for _, xs in read_layer(extracted, layer).read():
        clip_of_token = torch.arange(len(xs)).repeat_interleave(torch.tensor([len(x) for x in xs]))
        codes = sae.encode(torch.cat([x.float() for x in xs]))
        scores.append(clip_scores(codes, clip_of_token, len(xs), sae.d_sae).mean)
    return torch.cat(scores)


def main(runs: Sequence[str]) -> None:
    """Print one line a feature."""
    say: Any = Console(soft_wrap=True, highlight=False, markup=False).print
    say(f"| {' | '.join(HEAD)} |\n{'| --- ' * len(HEAD)}|")
    for folder in runs:
        for found in found_features(Run.load(Path(folder))):
            areas = (f"{x.value:.2f} [{x.low:.2f}, {x.high:.2f}]" for x in (found.among_all, found.among_voices))
            of = "{} of {}".format(*found.num_voices)
            say(f"| {' | '.join([found.target, str(found.feature), found.name, *areas, of])} |")


if __name__ == "__main__":
    main(sys.argv[1:])
