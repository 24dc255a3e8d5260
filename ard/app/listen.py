"""Which concepts fire in a clip, and when."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ard.app.subject import Subject
from ard.audio.decoding import decode_pieces
from ard.audio.paths import printable
from ard.probing import clip_scores
from ard.types import Clip, Codes, Failure, UserError

LONGEST_BYTES = 16 * 2**20
"""Most bytes of a file that is dropped."""

LONGEST_S = 120.0
"""Longest clip in seconds; most models hear 30 s of it."""

MOST_CONCEPTS = 40
"""Concepts listed of a clip."""


class Fired(NamedTuple):
    """A concept that is active in a clip.

    Attributes:
        feature: its number.
        name: its name.
        score: the clip's score for it (Eq. 2), as in the probing set.
        share: the score divided by that of the probing clip which scores highest; above 1 this clip is a new extreme.
        maximum: its largest activation in the probing set.
        activations: its activation at every audio token, 0 where it is silent.
    """

    feature: int
    name: str
    score: float
    share: float
    maximum: float
    activations: list[float]


class Heard(NamedTuple):
    """What a dictionary finds in a clip.

    Attributes:
        concepts: the named concepts that fire, by ``share``, the largest first.
        num_concepts: how many fire, with those that are not listed.
        num_unnamed: how many features without a name fire.
        num_tokens: audio tokens that stand for the clip's sound.
        token_s: seconds that each stands for.
        heard_s: seconds of the clip that the model hears.
    """

    concepts: list[Fired]
    num_concepts: int
    num_unnamed: int
    num_tokens: int
    token_s: float
    heard_s: float


def hear(content: bytes, name: str) -> Clip:
    """Decode a sound file that was dropped, as :func:`ard.read_clip` decodes one on disk.

    Raises:
        UserError: if it is too long or holds nothing to hear; the message gives the reason.
    """
    shown = printable(name)[:120] or "your clip"
    suffix, recording = next(decode_pieces(content, shown, LONGEST_S))
    if isinstance(recording, Failure):
        raise UserError(f"{shown!r} cannot be heard ({recording.reason}): give another clip")
    if suffix:
        raise UserError(f"{shown!r} is longer than {LONGEST_S:g} s: give a part of it")
    return Clip(shown, recording.waveform, recording.sample_rate_hz, "dropped", note=recording.note)


@torch.inference_mode()
def listen(subject: Subject, clip: Clip, most: int = MOST_CONCEPTS) -> Heard:
    """Find which concepts fire in a clip: the codes are those of ``model.capture`` and ``sae.encode``."""
    (x,) = subject.model.capture([clip], [subject.cell.layer])[subject.cell.layer]
    num_tokens, token_s = subject.model.prompter.timing(clip.duration_s, len(x))
    codes = subject.coder.encode(x[:num_tokens].float())  # tokens of padding are left out, as in the probing set
    codes = Codes(codes.values.cpu(), codes.indices.cpu())
    scores = clip_scores(codes, torch.zeros(num_tokens, dtype=torch.int64), 1, subject.coder.d_sae).ard[0]
    firing = scores.nonzero()[:, 0]
    share = scores / subject.highest.clamp(min=torch.finfo(torch.float32).tiny)
    named = [feature for feature in firing.tolist() if feature in subject.names]
    named.sort(key=lambda feature: (-float(share[feature]), feature))
    concepts = [
        Fired(
            feature,
            subject.names[feature],
            float(scores[feature]),
            float(share[feature]),
            float(subject.maxima[feature]),
            activations(codes, feature).tolist(),
        )
        for feature in named[:most]
    ]
    heard_s = min(clip.duration_s, subject.model.prompter.window_s)
    return Heard(concepts, len(named), len(firing) - len(named), num_tokens, token_s, heard_s)


def activations(codes: Codes, feature: int) -> Float[Tensor, " tokens"]:
    """Return a feature's activation at every token."""
    return (codes.values * (codes.indices == feature)).sum(dim=1)
