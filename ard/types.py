"""What passes between the stages, and the axis words of every shape in the package.

Axis words, in jaxtyping strings and in prose: ``clips tokens d_in features k p concepts labels``. ``d_sae`` is the
size of ``features``.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor


class UserError(Exception):
    """Bad input that the user can correct: what was wrong, the value received, what to do. The CLI exits with 2."""

    def __str__(self) -> str:
        """Return the message, without the traceback that a DataLoader worker puts in front of it."""
        return super().__str__().rpartition("UserError: ")[2].strip()


class Mixture(NamedTuple):
    """The two clips, by their ids, that a clip was mixed from, and by how many dB the first is above the second."""

    source: str
    background: str
    level_db: float


@dataclass(frozen=True)
class Clip:
    """One audio clip and its metadata. ``waveform`` is mono float32 in [-1, 1].

    ``group`` names the clips that belong together, such as those of one speaker or one file: they are held out and
    resampled together. ``note`` says what was wrong with its sound or its row, if anything: that it was cut short, for
    example. ``mixture`` says what clips it was mixed from, if nobody recorded it.
    """

    id: str
    waveform: Float[np.ndarray, " samples"]
    sample_rate_hz: int
    dataset: str
    caption: str | None = None
    labels: tuple[str, ...] = ()
    emotion: str | None = None
    gender: str | None = None
    transcript: str | None = None
    group: str | None = None
    note: str | None = None
    mixture: Mixture | None = None

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return len(self.waveform) / self.sample_rate_hz


class Failure(NamedTuple):
    """A clip that was left out: its id or path, the stage that left it out, and the reason."""

    id: str
    stage: str
    reason: str


class Note(NamedTuple):
    """A clip that was used despite a problem: its id, the stage that noticed the problem, and what it was."""

    id: str
    stage: str
    reason: str


class Codes(NamedTuple):
    """Sparse codes: the k selected features of every token and their activations, in no particular order."""

    values: Float[Tensor, "tokens k"]
    indices: Int[Tensor, "tokens k"]
