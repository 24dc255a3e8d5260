"""New clips made of old ones: each clip of a folder of shards, mixed into another as its background."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np

from ard.audio.functional import resample
from ard.audio.shards import StoredClips
from ard.types import Clip, Mixture, UserError

LEVELS_DB = (10.0, 0.0)
MOST_TRIED = 50  # backgrounds, for one that has none of a clip's labels


class MixedClips:
    """Clips that nobody recorded: each is a clip of audio shards, before another one that shares no label with it.

    The clips of a folder take turns in a seeded order: where they have labels, so that every label gets about as many
    clips. A mixture is as long as its clip, which is louder than its background by one of the levels, by turns; where
    the sum would clip, both become quieter. It has the labels of both, and ``mixture`` says which clips they were.

    Args:
        root: folder of the audio shards.
        num_clips: number of mixtures; by default as many as there are clips, and at most 2000.
        levels_db: by how much a clip's power is above its background's, in dB.
        seed: seed of the order and of the backgrounds.
    """

    def __init__(
        self, root: Path, num_clips: int | None = None, levels_db: Sequence[int | float] = LEVELS_DB, seed: int = 0
    ) -> None:
        if not levels_db:
            raise UserError("levels_db [] has no level to mix clips at: give one in dB, such as [10, 0]")
        self.root, self.num_clips, self.seed = root, num_clips, seed
        self.levels_db = [float(level_db) for level_db in levels_db]

    def __iter__(self) -> Iterator[Clip]:
        """Mix the clips, one at a time.

        Raises:
            UserError: if the folder holds no finished set of audio shards, or a single clip.
        """
        stored, rng = StoredClips(self.root), np.random.default_rng(self.seed)
        labels = stored.labels
        if len(labels) < 2:
            raise UserError(f"{str(self.root)!r} holds {len(labels)} clips: two or more are needed to mix them")
        order = _in_turn([list(labels)[place] for place in rng.permutation(len(labels))], labels)
        most = min(len(labels), 2000) if self.num_clips is None else self.num_clips
        for number in range(most):
            source = order[number % len(order)]
            background = _background(source, labels, rng)
            clips = {clip.id: clip for clip in stored((source, background))}
            if len(clips) == 2:
                level_db = self.levels_db[number % len(self.levels_db)]
                yield _mixed(clips[source], clips[background], level_db, f"mixed-{number:06d}")


def _in_turn(clip_ids: Sequence[str], labels: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the clips so that their labels take turns; a clip comes with the rarest of its labels."""
    frequency = Counter(label for of_clip in labels.values() for label in of_clip)
    of_label: dict[str, list[str]] = defaultdict(list)
    for clip_id in clip_ids:
        of_label[min(labels[clip_id], key=lambda label: (frequency[label], label), default="")].append(clip_id)
    turns = zip_longest(*(of_label[label] for label in sorted(of_label)))
    return [clip_id for clip_id in chain.from_iterable(turns) if clip_id is not None]


def _background(source: str, labels: Mapping[str, Sequence[str]], rng: np.random.Generator) -> str:
    """Draw another clip: one that shares no label with this one, if any of a few draws does not."""
    clip_ids = list(labels)
    drawn = [clip_ids[place] for place in rng.integers(len(clip_ids), size=MOST_TRIED)]
    others = [clip_id for clip_id in drawn if clip_id != source] or [next(other for other in labels if other != source)]
    return next((other for other in others if not {*labels[other]} & {*labels[source]}), others[0])


def _mixed(source: Clip, background: Clip, level_db: float, clip_id: str) -> Clip:
    behind = resample(background.waveform, background.sample_rate_hz, source.sample_rate_hz)
    behind = np.resize(behind, len(source.waveform))  # repeated, or cut
    power, power_behind = (float(np.mean(waveform.astype(np.float64) ** 2)) for waveform in (source.waveform, behind))
    gain = np.sqrt(power / (power_behind or 1.0) / 10 ** (level_db / 10))
    waveform = source.waveform + np.float32(gain) * behind
    return replace(
        source,
        id=clip_id,
        waveform=(waveform / max(1.0, float(np.abs(waveform).max()))).astype(np.float32),
        labels=tuple(dict.fromkeys((*source.labels, *background.labels))),
        caption=None,
        note=None,
        mixture=Mixture(source.id, background.id, level_db),
    )
