"""Whether a named feature hears its concept or reads its name: its activity under audio and words that agree or not."""

import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ard.audio import StoredClips, read_audio_manifest, read_clip, read_conflicts
from ard.audiollm import EMBEDDED, AudioLLM, load_audiollm, only_hears
from ard.embedding import EMBEDDED as EMBEDDED_CLAP
from ard.evaluation.hearing import CONDITIONS, over_pairs
from ard.evaluation.trials import Trial, Unseen, contradicting_names, mean_rates, pairs_of_concepts
from ard.monosemanticity import read_selections
from ard.naming import read_names
from ard.naming.answers import Answers, request_key
from ard.probing import Evaluator
from ard.results import Figure, Result
from ard.run import Cell
from ard.sae import Dictionary
from ard.types import Clip, UserError

PAIRS_KEPT = 8  # of a table: measured before they are kept


class HearOrRead(Evaluator):
    """Write ``modality.json``, and ``modality.parquet`` with a row for every measured concept.

    A *pair* is a clip in which the concept's name is true and a neutral sound of the same length: silence for every
    second pair, for the others white noise as loud as the clip. With the name and with a neutral text they make the
    prompts of :data:`~ard.evaluation.hearing.CONDITIONS`. A feature's activity in a prompt is its highest one at any
    token, of sound or text, from the first on that differs between the prompts of a pair. What comes before is the same
    in all of them, since a decoder looks back only. For the same reason words behind the sound cannot reach its tokens:
    there a feature reads at the words and behind them. Activities are means over pairs, and intervals are over
    resampled pairs.

    The columns are the activity under every condition and, each with ``_low`` and ``_high``, the index ``hearing``,
    from 0 (reads) to 1 (hears); ``hearing_shuffled``, the same with another concept's words in the place of the name,
    which tells reading the name from reading anything; and ``audio_wins``, how much of its activity a feature keeps
    when the words contradict the sound (:mod:`ard.evaluation.hearing`). ``contradicts`` is the name of another concept:
    of those whose text-text cosine with the own name is low, the one that is active in about as many clips.

    The clips are those that naming never saw. By label, they have all labels that the name states and not all that the
    contradicting name states. Where no label is stated, they are the feature's most active clips (``clips_by``): this
    favours hearing, for the activity is then high by choice. Concepts without either are counted.

    Only the run's own cell is measured, at layers that read: those of a decoder.

    Args:
        model: the AudioLLM whose activations the dictionary explains.
        layers_path: module path of its layers, as in extraction.
        clap: the CLAP model that compares names.
        num_concepts: most concepts, drawn at random among those with a name; None takes all.
        num_pairs: most pairs of a concept, drawn at random by label, else the most active; or of a table.
        template: the concept's words, with {} for its name.
        neutral: words that name no concept.
        most_similar: names with this cosine or more do not contradict each other.
        pairs: a table of pairs instead, whose words are taken as they are, see :func:`~ard.audio.read_conflicts`; every
            feature is then measured on the same ones.
        pairs_audio: the folder that the table's paths are below.
        prompts_per_batch: prompts in a pass.
        seed: seed of the draws, the noise and the bootstrap.

    Raises:
        UserError: if the template has no place for the name.
    """

    needs = ("selections", "names", "scores")
    makes = ("modality",)
    results = ("modality",)
    compares_texts = True

    def __init__(
        self,
        *,
        model: str = EMBEDDED,
        layers_path: str | None = None,
        clap: str = EMBEDDED_CLAP,
        num_concepts: int | None = None,
        num_pairs: int = 8,
        template: str = "This is the sound of {}.",
        neutral: str = "This is a sound.",
        most_similar: float = 0.5,
        pairs: Path | None = None,
        pairs_audio: Path | None = None,
        prompts_per_batch: int = 48,
        seed: int = 0,
    ) -> None:
        super().__init__(clap=clap, seed=seed)
        if "{}" not in template:
            raise UserError(f"template {template!r} has no place for a name: write {{}} where it goes")
        self.model, self.layers_path = model, layers_path
        self.num_concepts, self.num_pairs = num_concepts, num_pairs
        self.template, self.neutral, self.most_similar = template, neutral, most_similar
        self.pairs, self.pairs_audio = pairs, pairs_audio
        self.prompts_per_batch = prompts_per_batch

    @classmethod
    def lacks(cls, settings: Mapping[str, Any]) -> str | None:
        """Return what it lacks: an encoder reads no words."""
        hears_only = only_hears(str(settings.get("model", EMBEDDED)))
        return "a model that reads words" if hears_only else super().lacks(settings)

    def check(self, cell: Cell) -> None:
        """Fail now if the clips or the table are missing."""
        if self.pairs is None:
            read_audio_manifest(cell.run.audio(cell.unseen))
        else:
            read_conflicts(self.pairs, self.pairs_audio)

    def evaluate(self, cell: Cell) -> Result | None:
        """Measure every concept; None for cells that are not the run's own, and for layers that do not read."""
        cell.path("modality").unlink(missing_ok=True)
        is_own = not cell.run.path.is_file() or cell.folder == cell.run.own.folder
        if cell.is_baseline or not is_own or not self._reads():
            return None
        names = self._names(cell)
        trials = list(self._of_concepts(cell, names) if self.pairs is None else self._of_table(self.pairs, names))
        keys, kept = self._keys(cell, trials), self._kept(cell)
        if left := [trial for trial in trials if keys[trial] not in kept.known]:
            self.ranks.together(self.helper(cell), left)
            kept.read()
        rows = list(self._rows(names, trials, [_read_activity(kept.known[keys[trial]], trial) for trial in trials]))
        cell.save_rows("modality", rows)
        kept.path.unlink(missing_ok=True)
        return self._result(cell, rows, len(names))

    def helper(self, cell: Cell) -> Callable[..., object]:
        """Return what measures this rank's share of the trials; it loads the model when that is needed."""
        return partial(self._measure, cell)

    def _reads(self) -> bool:
        """Return whether the layers hold text; without a path they are the decoder's, if there is one."""
        if self.layers_path is None:
            return not only_hears(self.model)
        return load_audiollm(self.model, device="meta", layers_path=self.layers_path).reads

    def _names(self, cell: Cell) -> dict[int, str]:
        """Draw concepts: the names of features, in the order of the selection."""
        features, names = read_selections(cell)["ard"][0].features.tolist(), read_names(cell)["ard"][0]
        named = [(feature, name) for feature, name in zip(features, names, strict=True) if name is not None]
        drawn = np.random.default_rng(self.seed).permutation(len(named))[: self.num_concepts]
        return dict(named[place] for place in sorted(drawn))

    def _of_concepts(self, cell: Cell, names: Mapping[int, str]) -> Iterator[Trial]:
        """Choose clips and contradicting words for every concept."""
        unseen = Unseen(cell, list(names))
        rates = mean_rates(names, unseen)
        embedded = self.clap().text(list(rates))
        contradicting = contradicting_names(rates, embedded @ embedded.T >= self.most_similar, self.seed)
        return pairs_of_concepts(names, unseen, contradicting, self.template, self.neutral, self.num_pairs, self.seed)

    def _of_table(self, table: Path, names: Mapping[int, str]) -> Iterator[Trial]:
        """Draw pairs of a table, for all features at once."""
        conflicts = read_conflicts(table, self.pairs_audio)
        drawn = sorted(np.random.default_rng(self.seed).permutation(len(conflicts))[: self.num_pairs].tolist())
        for first in range(0, len(drawn), PAIRS_KEPT):
            part = tuple(conflicts[place] for place in drawn[first : first + PAIRS_KEPT])
            yield Trial(tuple(names), part, "table")

    def _kept(self, cell: Cell) -> Answers:
        """Return the file to which activities are appended until all of them are there, read so far."""
        kept = Answers(cell.path("modality").with_suffix(".jsonl"))
        kept.read()
        return kept

    def _keys(self, cell: Cell, trials: Sequence[Trial]) -> dict[Trial, str]:
        """Return for each trial a key of all that its activities depend on."""
        audio = None if self.pairs else read_audio_manifest(cell.run.audio(cell.unseen)).xxh3
        common = {"model": self.model, "layers_path": self.layers_path, "layer": cell.layer, "audio": audio}
        common |= {"weights": self.dictionary(cell).fingerprint(), "neutral": self.neutral, "seed": self.seed}
        return {
            trial: request_key(
                {**common, "features": trial.features, "pairs": [[*map(str, one)] for one in trial.conflicts]}
            )
            for trial in trials
        }

    def _measure(self, cell: Cell, trials: Sequence[Trial]) -> None:
        """Measure this rank's share of the trials; keep each when it is done."""
        kept, keys = self._kept(cell), self._keys(cell, trials)
        model = load_audiollm(self.model, device=self.device, layers_path=self.layers_path)
        stored = StoredClips(cell.run.audio(cell.unseen)) if self.pairs is None else None
        for trial in self.ranks.share(trials, "hears or reads"):
            kept.keep(keys[trial], json.dumps(self._activity(model, cell, trial, stored).tolist()))

    @torch.inference_mode()
    def _activity(
        self, model: AudioLLM, cell: Cell, trial: Trial, stored: StoredClips | None
    ) -> Float[Tensor, "pairs conditions features"]:
        """Return the activity of a trial's features under every condition; stored clips that are damaged are left out.

        Raises:
            UserError: if a sound of a table cannot be used.
        """
        dictionary, size = self.dictionary(cell), max(1, self.prompts_per_batch // len(CONDITIONS))
        parts = [torch.empty(0, len(CONDITIONS), len(trial.features))]
        for first in range(0, len(trial.conflicts), size):
            clips: list[Clip] = []
            texts: list[str] = []
            for number, one in enumerate(trial.conflicts[first : first + size], first):
                for clip in [read_clip(one.audio)] if stored is None else stored([one.id]):
                    quiet = neutral_audio(clip, self.seed, is_noise=bool(number % 2))
                    clips += [clip, quiet, clip, quiet, clip, quiet]
                    texts += [self.neutral, one.says, one.says, self.neutral, one.contradicts, one.contradicts]
            if clips:
                x = tokens_of_pairs(model, cell.layer, clips, texts)
                parts.append(highest(dictionary, x, trial.features).unflatten(0, (-1, len(CONDITIONS))).cpu())
        return torch.cat(parts)

    def _rows(
        self,
        names: Mapping[int, str],
        trials: Sequence[Trial],
        activities: Sequence[Float[np.ndarray, "_ conditions _"]],
    ) -> Iterator[dict[str, Any]]:
        """Return a row for every concept that has pairs."""
        parts: dict[int, list[tuple[Trial, Float[np.ndarray, "_ conditions"]]]] = {}
        for trial, activity in zip(trials, activities, strict=True):
            for place, feature in enumerate(trial.features):
                parts.setdefault(feature, []).append((trial, activity[..., place]))
        for feature in (feature for feature in names if feature in parts):
            trial, activity = parts[feature][0][0], np.concatenate([part for _, part in parts[feature]])
            if not len(activity):
                continue
            if trial.clips_by != "table" and trial.contradicting is None:
                activity[:, [CONDITIONS.index("conflict"), CONDITIONS.index("other_words")]] = np.nan
            row = {"feature": feature, "name": names[feature], "contradicts": trial.contradicting}
            row |= {"clips_by": trial.clips_by, "num_pairs": len(activity)}
            row |= dict(zip(CONDITIONS, activity.mean(axis=0).tolist(), strict=True))
            for figure, (value, low, high) in over_pairs(activity, self.seed).items():
                row |= {figure: value, f"{figure}_low": low, f"{figure}_high": high}
            yield row

    def _result(self, cell: Cell, rows: Sequence[Mapping[str, Any]], num_named: int) -> Result:
        """Return the means over concepts, and how many hear and how many read."""
        hearing, low, high, shuffled, wins = (
            np.array([row[name] for row in rows], dtype=float)
            for name in ("hearing", "hearing_low", "hearing_high", "hearing_shuffled", "audio_wins")
        )
        told = ~np.isnan(hearing)
        means = {"hearing": hearing[told], "audio_wins": wins[~np.isnan(wins)]}
        shares = {"share_hearing": low[told] > 0.5, "share_reading": high[told] < 0.5}
        figures = {name: self._figure(samples, "index from 0 to 1") for name, samples in means.items()}
        figures |= {name: self._figure(samples, "share of concepts") for name, samples in shares.items()}
        control = {"hearing": self._figure(shuffled[~np.isnan(shuffled)], "index from 0 to 1")}
        choices = {
            "model": self.model,
            "neutral text": self.neutral,
            "words": "the table's" if self.pairs else self.template,
            "neutral audio": "silence, and white noise as loud as the clip, by turns",
            "activity": "highest at any token from the first on that differs between the prompts of a pair",
            "clips": "the table's" if self.pairs else "by label, else the most active; unseen by naming",
            "contradicts": f"the name of nearest rate with a CLAP cosine below {self.most_similar:g}",
            "share_hearing": "the interval over pairs is above one half",
            "share_reading": "the interval over pairs is below one half",
            "num_pairs": self.num_pairs,
        }
        details = {
            "num_concepts": num_named,
            "num_without_clips": num_named - len(rows),
            "num_neither": int((~told).sum()),
            "num_clips_by": {by: sum(row["clips_by"] == by for row in rows) for by in ("label", "activity", "table")},
        }
        results = cell.row(figures), cell.row(control, control="names shuffled").as_control()
        return Result("modality", results, choices, details)

    def _figure(self, samples: np.ndarray, unit: str) -> Figure:
        return Figure.estimate(samples, np.mean, unit, over="concepts", seed=self.seed, better="neither")


def _read_activity(kept: str, trial: Trial) -> Float[np.ndarray, "_ conditions _"]:
    """Read the activity of a trial's features."""
    return np.array(json.loads(kept)).reshape(-1, len(CONDITIONS), len(trial.features))


def neutral_audio(clip: Clip, seed: int, *, is_noise: bool) -> Clip:
    """Return silence as long as a clip, or white noise that is also as loud: of the same root mean square."""
    quiet = np.zeros_like(clip.waveform)
    if is_noise:
        noise = np.random.default_rng([seed, zlib.crc32(clip.id.encode())]).standard_normal(len(quiet))
        quiet = (noise * np.sqrt(np.mean(np.square(clip.waveform), dtype=np.float64))).astype(np.float32)
    return replace(clip, waveform=quiet)


def tokens_of_pairs(
    model: AudioLLM, layer: int, clips: Sequence[Clip], texts: Sequence[str]
) -> list[Float[Tensor, "tokens d_in"]]:
    """Return what a layer holds at the tokens of prompts, from the first on that differs within a pair's.

    Audio tokens behind a clip's end are left out.

    Args:
        model: the AudioLLM.
        layer: the layer.
        clips: for each pair as many as there are conditions, all of one length.
        texts: the text of each.
    """
    prompts = model.prompter(clips, texts)
    captured = model.capture(prompts, [layer], "all")[layer]
    ids = [tokens[valid] for tokens, valid in zip(prompts.features["input_ids"], prompts.valid, strict=True)]
    audio = [is_audio[valid] for is_audio, valid in zip(prompts.audio, prompts.valid, strict=True)]
    read = []
    for row, x in enumerate(captured):
        first = row - row % len(CONDITIONS)
        wanted = model.prompter.without_filling(audio[row], clips[row].duration_s)
        wanted[: first_difference(ids[first : first + len(CONDITIONS)], audio[row])] = False
        read.append(x[wanted.to(x.device)])
    return read


def first_difference(ids: Sequence[Int[Tensor, " _"]], is_audio: Bool[Tensor, " tokens"]) -> int:
    """Return the place of the first token that differs between prompts, or that is audio in them."""
    shortest = min(map(len, ids))
    differs = torch.stack([one[:shortest] != ids[0][:shortest] for one in ids]).any(dim=0) | is_audio[:shortest]
    return int(differs.int().argmax()) if differs.any() else shortest


def highest(
    dictionary: Dictionary, xs: Sequence[Float[Tensor, "_ d_in"]], features: Sequence[int]
) -> Float[Tensor, "prompts features"]:
    """Return the highest activation of some features at any token of each prompt; 0 where they are silent."""
    values, indices = dictionary.encode(torch.cat(list(xs)).float())
    column = torch.full((dictionary.d_sae,), len(features), device=indices.device)  # the last one is for all others
    column[torch.tensor(features, device=indices.device)] = torch.arange(len(features), device=indices.device)
    lengths = torch.tensor([len(x) for x in xs], device=indices.device)
    prompt = torch.arange(len(xs), device=indices.device).repeat_interleave(lengths)
    places = prompt[:, None] * (len(features) + 1) + column[indices]
    found = values.new_zeros(len(xs) * (len(features) + 1))
    found.scatter_reduce_(0, places.flatten(), values.flatten(), "amax")
    return found.view(len(xs), -1)[:, : len(features)]
