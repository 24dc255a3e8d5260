"""The intruder test: of five clips, a feature fires in four; which is the odd one out, by CLAP or by a listener?"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from ard.naming import Chat
from ard.naming.captions import sound_part
from ard.types import Clip

NUM_CLIPS = 5
CHANCE = 1 / NUM_CLIPS

PROMPT = """\
You hear five recordings, in order. Four of them have something in common that the fifth lacks: a sound, a kind of
voice, an emotion, a way of recording, or the like. Which is the odd one out?
Give your reason in one sentence. Then write a last line with nothing but its number, in this form:
Odd one out: (1 to 5)"""

_NUMBER = re.compile(r"[*_ ]*odd one out[*_ ]*:[*_ ]*\(?([1-5])\)?[*_ .]*", re.IGNORECASE)


class Trials(NamedTuple):
    """Trials of one feature: the five clips of each, and which of them is the intruder."""

    clips: Int[np.ndarray, "trials five"]
    intruder: Int[np.ndarray, " trials"]


def draw_trials(
    fires: Bool[np.ndarray, " clips"],
    scores: Float[np.ndarray, " clips"],
    near: Bool[np.ndarray, " clips"],
    number: int,
    rng: np.random.Generator,
) -> Trials | None:
    """Draw trials: four clips in which the feature fires, and one in which it is silent, at a random place.

    The intruder is a hard negative of the feature's name where there is one in which the feature is silent. None where
    the feature fires in fewer than four clips, or is silent in none.
    """
    members, silent = np.flatnonzero(fires), np.flatnonzero(scores <= 0)
    hard = np.flatnonzero(near & (scores <= 0))
    if len(members) < NUM_CLIPS - 1 or not len(silent):
        return None
    clips, places = np.empty((number, NUM_CLIPS), dtype=np.int64), rng.integers(NUM_CLIPS, size=number)
    for trial, place in enumerate(places):
        four = rng.choice(members, NUM_CLIPS - 1, replace=False)
        clips[trial] = np.insert(four, place, rng.choice(hard if len(hard) else silent))
    return Trials(clips, places)


def right_by_embeddings(trials: Trials, embedded: Float[np.ndarray, "clips d"]) -> Bool[np.ndarray, " trials"]:
    """Return in which trials the intruder is the clip whose mean cosine to the other four is lowest."""
    five = embedded[trials.clips]
    cosine = np.einsum("tid,tjd->tij", five, five)
    closeness = cosine.sum(axis=2) - np.einsum("tii->ti", cosine)
    return closeness.argmin(axis=1) == trials.intruder


def right_by_listener(chat: Chat, fives: Sequence[Sequence[Clip]], intruders: Sequence[int]) -> list[bool | None]:
    """Ask a model that hears for the odd one out of every five clips; None where its answer cannot be read."""
    prompts = [[*(sound_part(clip) for clip in five), {"type": "text", "text": PROMPT}] for five in fives]
    replies = chat(prompts, "odd ones out")
    return [
        None if reply.text is None or (number := read_number(reply.text)) is None else number == intruder
        for reply, intruder in zip(replies, intruders, strict=True)
    ]


def read_number(reply: str) -> int | None:
    r"""Return the place, from 0, in a reply's last line; None if it has none.

    Example:
        >>> from ard.evaluation.odd_one_out import read_number
        >>> read_number("The others bark.\nOdd one out: 3")
        2
    """
    lines = [line.strip() for line in reply.splitlines() if line.strip()]
    match = _NUMBER.fullmatch(lines[-1]) if lines else None
    return int(match[1]) - 1 if match else None
