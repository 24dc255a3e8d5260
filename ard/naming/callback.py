"""Caption the representative clips, name the selected features of every method, and write the catalogue."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache, partial
from math import nan
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ard.activations import read_clips_metadata, read_manifest
from ard.audiollm import EMBEDDED
from ard.console import console
from ard.embedding import EMBEDDED as EMBEDDED_CLAP
from ard.monosemanticity import read_selections
from ard.naming.captions import audiollm_captioner, caption_clips, chat_captioner
from ard.naming.catalogue import Named, weigh, write_concepts, write_names
from ard.naming.chat import Chat, kind_of
from ard.naming.consensus import ConsensusNamer
from ard.naming.namer import Embed, Name, Namer
from ard.naming.prompts import CAPTION_PROMPT
from ard.probing import Evaluator
from ard.results import Figure, Result
from ard.run import Cell

NUM_RANDOM_CLIPS = 1024  # that names are compared with


class NameConcepts(Evaluator):
    """Write ``names.parquet`` (selected features of every method), ``concepts.parquet`` and ``naming.json``.

    Every clip is captioned once per run, with the paper's prompt. Captions are kept, so that a stopped run pays for
    none of them twice; ``naming.json`` lists the evaluation clips that were captioned (``evaluation_clips``). For every
    name, it records which higher-ranked concept's name it repeats, if any, and how close it is to the clips of H^k and
    to random clips.

    Args:
        audiollm: the model that writes captions (the paper's SeaLLMs-Audio-7B); None if none does.
        captioner: a chat model that takes audio and writes the captions instead, at an endpoint.
        namer: makes names from captions; by default, from their consensus.
        clap: the CLAP model for the consensus namer, for duplicates and for the names' evidence.
        duplicate_cosine: cosine from which on two names count as the same.
        clips_per_batch: clips captioned at once.
        max_new_tokens: length limit of a caption, in tokens.
        num_evaluation_clips: labelled evaluation clips, drawn at random, that are captioned as well. Their captions
            name no feature: they show what the captioner itself reaches in Table 1. Cells without baselines need none.
        seed: seed for the random clips and the bootstrap.
    """

    needs = ("representatives", "selections")
    makes = ("names", "concepts")
    results = ("naming",)
    embeds = ("probe",)

    def __init__(
        self,
        *,
        audiollm: str | None = EMBEDDED,
        captioner: Chat | None = None,
        namer: Namer | None = None,
        clap: str = EMBEDDED_CLAP,
        duplicate_cosine: float = 0.95,
        clips_per_batch: int = 32,
        max_new_tokens: int = 128,
        num_evaluation_clips: int = 200,
        seed: int = 0,
    ) -> None:
        super().__init__(clap=clap, seed=seed)
        self.audiollm, self.captioner, self.namer = audiollm, captioner, namer or ConsensusNamer()
        self.duplicate_cosine = duplicate_cosine
        self.clips_per_batch, self.max_new_tokens = clips_per_batch, max_new_tokens
        self.num_evaluation_clips = num_evaluation_clips

    def check(self, cell: Cell) -> None:
        """Fail now if captions or names cannot be made later."""
        self.namer.check()
        if self.captioner is not None:
            self.captioner.check()

    def evaluate(self, cell: Cell) -> Result | None:
        """Caption the clips, name the features, compare the names with clips, and write."""
        clip_ids = read_manifest(cell.probe).clip_ids
        selections = read_selections(cell)
        rows = {row for draws in selections.values() for draw in draws for row in draw.top_ids.flatten().tolist()}
        caption = self._captioner(cell)
        captions = caption("probe", [clip_ids[row] for row in sorted(rows)])
        clap = self.clap()
        embeddings = self.embeddings(cell, "probe")
        others = torch.randperm(len(clip_ids), generator=torch.Generator().manual_seed(self.seed))[:NUM_RANDOM_CLIPS]
        named: dict[str, list[Named]] = {}
        for scorer, draws in selections.items():
            for draw in draws:
                of_concepts = [[clip_ids[row] for row in top] for top in draw.top_ids.tolist()]
                of_concepts = [[captions[clip_id] for clip_id in top if clip_id in captions] for top in of_concepts]
                names = self._name(of_concepts, embeddings[draw.top_ids], clap.text)
                weighed = weigh(draw, names, embeddings, others, clap.text, self.duplicate_cosine)
                named.setdefault(scorer, []).append(weighed)
        write_names(cell, named)
        write_concepts(cell, clip_ids, captions, named["ard"][0])
        num_without_caption = len(rows) - sum(clip_ids[row] in captions for row in rows)
        unseen = self._evaluation_clips(cell) if "random" in selections else []
        if unseen:
            caption("eval", unseen)
        return self._result(cell, named["ard"][0], num_without_caption, unseen)

    def _evaluation_clips(self, cell: Cell) -> list[str]:
        """Draw labelled evaluation clips, those that the run has the audio of."""
        if cell.evaluation is None or cell.run.audio("eval") not in cell.run.audio_splits:
            return []
        labelled = [clip["id"] for clip in read_clips_metadata(cell.evaluation) if clip.get("labels")]
        drawn = np.random.default_rng(self.seed).permutation(len(labelled))[: self.num_evaluation_clips]
        return [labelled[place] for place in sorted(drawn.tolist())]

    def _captioner(self, cell: Cell) -> Callable[[str, list[str]], dict[str, str]]:
        """Return what captions a split's clips, with a model that is loaded at most once; some may get no caption."""
        if self.captioner is not None:
            model, load = self.captioner.model, cache(partial(chat_captioner, self.captioner))
        elif self.audiollm is None:
            return lambda split, clip_ids: {}
        else:
            own = partial(audiollm_captioner, self.audiollm, self.device, self.max_new_tokens)
            model, load = self.audiollm, cache(own)
        return lambda split, clip_ids: caption_clips(
            clip_ids, cell.run.audio(split), cell.run.captions, model, load, self.clips_per_batch
        )

    def _name(self, captions: list[list[str]], clips: Float[Tensor, "concepts p d"], embed: Embed) -> list[Name]:
        """Name the concepts that have captions."""
        rows = [row for row, of_concept in enumerate(captions) if of_concept]
        names = [Name(None, [], nan, "its clips have no caption")] * len(captions)
        if rows:
            for row, name in zip(rows, self.namer([captions[row] for row in rows], clips[rows], embed), strict=True):
                names[row] = name
        return names

    def _result(self, cell: Cell, named: Named, num_without_caption: int, unseen: list[str]) -> Result:
        has_name = np.array([name.name is not None for name in named.names], dtype=float)
        repeats = np.array([of is not None for of in named.duplicate_of], dtype=float)
        percentile = named.evidence.clap_percentile.numpy()[has_name > 0]
        figures = {
            "named_share": Figure.estimate(has_name, np.mean, "share of concepts", over="concepts", seed=self.seed),
            "distinct_share": Figure.estimate(
                has_name - repeats, np.mean, "share of concepts", over="concepts", seed=self.seed
            ),
            "clap_percentile": Figure.estimate(
                percentile, np.mean, "share of random clips", over="concepts", seed=self.seed
            ),
        }
        choices = {
            **self.namer.choices,
            "caption_prompt": CAPTION_PROMPT,
            "captioner": self.captioner.model if self.captioner else self.audiollm,
            "clap": self.clap_name,
            "duplicate_cosine": self.duplicate_cosine,
        }
        details = {
            "num_concepts": len(has_name),
            "num_without_name": int((1 - has_name).sum()),
            "why_without_name": _reasons(named.names),
            "num_clips_without_caption": num_without_caption,
            "num_duplicates": int(repeats.sum()),
            "evaluation_clips": unseen,
        }
        for line in _summary(named.names, num_without_caption):
            console.print(f"{cell.name}: {line}", markup=False, highlight=False, soft_wrap=True)
        return Result("naming", (cell.row(figures),), choices, details)


def _reasons(names: Sequence[Name]) -> dict[str, dict[str, Any]]:
    """Count the reasons why concepts have no name, by kind, each with the details of its first case."""
    reasons = [name.reason or "no reason is given" for name in names if name.name is None]
    counts = Counter(map(kind_of, reasons))
    first = {kind_of(reason): reason for reason in reversed(reasons)}
    return {kind: {"num_concepts": count, "such_as": first[kind]} for kind, count in counts.most_common()}


def _summary(names: Sequence[Name], num_without_caption: int) -> list[str]:
    """Say how many concepts have a name, and why the others have none."""
    num_named = sum(name.name is not None for name in names)
    lines = [f"{num_named} of {len(names)} concepts have a name"]
    lines += [f"{entry['num_concepts']} have none: {entry['such_as']}" for entry in _reasons(names).values()]
    return lines + ([f"{num_without_caption} clips have no caption"] if num_without_caption else [])
