"""Caption the representative clips, name the selected features of every method, and write the catalogue."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from math import nan
from typing import Any

import numpy as np
import torch

from ard.activations import read_clips_metadata, read_manifest
from ard.audiollm import EMBEDDED
from ard.console import console
from ard.embedding import EMBEDDED as EMBEDDED_CLAP
from ard.files import turn
from ard.monosemanticity import read_selections
from ard.naming.captions import Captioner, audiollm_captioner, caption_batches, caption_clips, chat_captioner
from ard.naming.catalogue import Named, Space, weigh, write_concepts, write_name_embeddings, write_names
from ard.naming.chat import Chat, kind_of
from ard.naming.consensus import ConsensusNamer
from ard.naming.namer import Concepts, Name, Namer
from ard.naming.prompts import CAPTION_PROMPT
from ard.probing import Evaluator
from ard.ranks import Ranks
from ard.results import Figure, Result
from ard.run import Cell
from ard.types import UserError

NUM_RANDOM_CLIPS = 1024  # that names are compared with


class NameConcepts(Evaluator):
    """Write ``names.parquet`` (selected features of every method), ``concepts.parquet`` and ``naming.json``.

    With a CLAP model it also writes ``name_embeddings.safetensors``, where the names lie in CLAP's space.

    The namer is given what it needs to know of the clips: captions, embeddings or labels. If it needs captions, every
    clip is captioned once per run, with the paper's prompt. Captions are kept, so that a stopped run pays for none of
    them twice; ``naming.json`` lists the evaluation clips that were captioned (``evaluation_clips``). For every name,
    it records which higher-ranked concept's name it repeats, if any, and how close it is to the clips of H^k and to
    random clips.

    Args:
        audiollm: the model that writes captions (the paper's SeaLLMs-Audio-7B); None if none does.
        captioner: a chat model that takes audio and writes the captions instead, at an endpoint.
        namer: makes the names; by default, from the consensus of captions.
        clap: the CLAP model for a namer that needs embeddings, for duplicates and for how close names are to clips.
            None leaves these out; only the same words are then a duplicate.
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
        clap: str | None = EMBEDDED_CLAP,
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
        """Fail now if captions or names cannot be made later.

        Raises:
            UserError: if the namer needs what the run does not have.
        """
        self.namer.check()
        needs, name = self.namer.needs, type(self.namer).__name__
        if "captions" in needs and self.captioner is not None:
            self.captioner.check()
        if "embeddings" in needs and self.clap_name is None:
            raise UserError(f"{name} needs a CLAP model, and clap is null: give one, or another namer")
        if "labels" in needs and not any(_labels(cell)):
            raise UserError(
                f"{name} needs labels, and no clip of '{cell.probe}' has one: give clips with labels, or another namer"
            )

    def evaluate(self, cell: Cell) -> Result | None:
        """Caption the clips, name the features, compare the names with clips, and write."""
        clip_ids = read_manifest(cell.probe).clip_ids
        selections = read_selections(cell)
        rows = {row for draws in selections.values() for draw in draws for row in draw.top_ids.flatten().tolist()}
        has_captions = "captions" in self.namer.needs
        caption = partial(self._captions, cell, self._captioner())
        captions = caption("probe", [clip_ids[row] for row in sorted(rows)]) if has_captions else {}
        labels = _labels(cell) if "labels" in self.namer.needs else []
        space = self._space(cell, len(clip_ids))
        named: dict[str, list[Named]] = {}
        for scorer, draws in selections.items():
            for draw in draws:
                of_clips = [[captions.get(clip_ids[row]) for row in top] for top in draw.top_ids.tolist()]
                of_concepts = [[caption for caption in of_top if caption] for of_top in of_clips]
                concepts = Concepts(draw.top_ids, of_concepts, labels=labels)
                if space is not None:
                    concepts = concepts._replace(embeddings=space.clips, embed=space.embed)
                weighed = weigh(draw, self._name(concepts), space, self.duplicate_cosine)
                named.setdefault(scorer, []).append(weighed)
        write_names(cell, named)
        write_concepts(cell, clip_ids, captions, named["ard"][0], self.namer.made_from)
        if not cell.is_baseline:
            write_name_embeddings(cell, named["ard"][0], space)
        num_without_caption = sum(clip_ids[row] not in captions for row in rows) if has_captions else 0
        unseen = self._evaluation_clips(cell) if has_captions and "random" in selections else []
        if unseen:
            caption("eval", unseen)
        return self._result(cell, named["ard"][0], num_without_caption, unseen)

    def _space(self, cell: Cell, num_clips: int) -> Space | None:
        """Return the space in which names and clips are compared, if there is a CLAP model."""
        if self.clap_name is None:
            return None
        others = torch.randperm(num_clips, generator=torch.Generator().manual_seed(self.seed))[:NUM_RANDOM_CLIPS]
        return Space(self.clap().text, self.embeddings(cell, "probe"), others)

    def _evaluation_clips(self, cell: Cell) -> list[str]:
        """Draw labelled evaluation clips, those that the run has the audio of."""
        if cell.evaluation is None or cell.run.audio("eval") not in cell.run.audio_splits:
            return []
        labelled = [clip["id"] for clip in read_clips_metadata(cell.evaluation) if clip.get("labels")]
        drawn = np.random.default_rng(self.seed).permutation(len(labelled))[: self.num_evaluation_clips]
        return [labelled[place] for place in sorted(drawn.tolist())]

    def helper(self, cell: Cell) -> Callable[..., None]:
        """Return what captions this rank's share of the clips."""
        return partial(caption_batches, cell.run.captions, self.audiollm or "", self._captioner(), self.ranks)

    def _captioner(self) -> Callable[[], Captioner]:
        """Return what loads the model that writes captions, at most once."""
        if self.captioner is not None:
            return cache(partial(chat_captioner, self.captioner))
        return cache(partial(audiollm_captioner, self.audiollm or "", self.device, self.max_new_tokens))

    def _captions(self, cell: Cell, load: Callable[[], Captioner], split: str, clip_ids: list[str]) -> dict[str, str]:
        """Return the captions of a split's clips; some may get none. An endpoint is asked by the first rank alone."""
        model = self.captioner.model if self.captioner is not None else self.audiollm
        if model is None:
            return {}
        ranks = self.ranks if self.captioner is None else Ranks()
        path = cell.run.captions
        with turn(path):
            return caption_clips(clip_ids, cell.run.audio(split), path, model, load, self.clips_per_batch, ranks)

    def _name(self, concepts: Concepts) -> list[Name]:
        """Name the concepts; those that have captions, if the namer needs these."""
        if "captions" not in self.namer.needs:
            return self.namer(concepts)
        rows = [row for row, of_concept in enumerate(concepts.captions) if of_concept]
        names = [Name(None, [], nan, "its clips have no caption")] * len(concepts.captions)
        if rows:
            captioned = concepts._replace(
                top_ids=concepts.top_ids[rows], captions=[concepts.captions[row] for row in rows]
            )
            for row, name in zip(rows, self.namer(captioned), strict=True):
                names[row] = name
        return names

    def _captioned_by(self) -> Mapping[str, str | None]:
        if "captions" not in self.namer.needs:
            return {}
        captioner = self.captioner.model if self.captioner else self.audiollm
        return {"caption_prompt": CAPTION_PROMPT, "captioner": captioner}

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
            "made_from": self.namer.made_from,
            **self._captioned_by(),
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
        for line in () if cell.is_baseline else _summary(named.names, self.namer.made_from, num_without_caption):
            console.print(f"{cell.name}: {line}", markup=False, highlight=False, soft_wrap=True)
        return Result("naming", (cell.row(figures),), choices, details)


def _labels(cell: Cell) -> list[Sequence[str]]:
    """Return the labels of every clip of the probing set; none for a clip without labels."""
    return [clip.get("labels") or [] for clip in read_clips_metadata(cell.probe)]


def _reasons(names: Sequence[Name]) -> dict[str, dict[str, Any]]:
    """Count the reasons why concepts have no name, by kind, each with the details of its first case."""
    reasons = [name.reason or "no reason is given" for name in names if name.name is None]
    counts = Counter(map(kind_of, reasons))
    first = {kind_of(reason): reason for reason in reversed(reasons)}
    return {kind: {"num_concepts": count, "such_as": first[kind]} for kind, count in counts.most_common()}


def _summary(names: Sequence[Name], made_from: str, num_without_caption: int) -> list[str]:
    """Say how many concepts have a name, made from what, and why the others have none."""
    num_named = sum(name.name is not None for name in names)
    lines = [f"{num_named} of {len(names)} concepts have a name, from {made_from}"]
    lines += [f"{entry['num_concepts']} have none: {entry['such_as']}" for entry in _reasons(names).values()]
    return lines + ([f"{num_without_caption} clips have no caption"] if num_without_caption else [])
