"""What the explorer looks into: a run's model and dictionary, loaded once, and what the run found out about both."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from ard.audiollm import AudioLLM, load_audiollm
from ard.reports import shown_names
from ard.representatives import read_maxima
from ard.run import Cell, Run
from ard.sae import Dictionary, load_dictionary


class Subject(NamedTuple):
    """A model, a dictionary of one of its layers, and what is known of each feature from the probing set.

    Attributes:
        cell: the run's own cell.
        model: the AudioLLM, or the encoder.
        coder: the dictionary, on the model's device.
        maxima: each feature's largest activation on a token.
        highest: each feature's largest clip score (Eq. 2).
        names: names by feature, of those that have one; a name that fails its tests says so.
    """

    cell: Cell
    model: AudioLLM
    coder: Dictionary
    maxima: Float[Tensor, " features"]
    highest: Float[Tensor, " features"]
    names: dict[int, str]

    @classmethod
    def load(cls, run: Run, device: str) -> "Subject":
        """Load what a run was made with.

        Raises:
            UserError: if something of it is not there.
        """
        cell = run.own
        coder, maxima = load_dictionary(cell.sae), read_maxima(cell)
        highest = cell.tensors("representatives")["ard/top_scores"][:, 0]
        model = load_audiollm(
            run.model, device=device, layers_path=run.facts.get("layers_path"), window=run.facts.get("window")
        )
        return cls(cell, model, coder.to(device), maxima, highest, shown_names(cell))
