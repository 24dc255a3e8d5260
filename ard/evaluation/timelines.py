"""The activations of selected features along their representative clips, token by token, for a report to draw."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ard.activations.layer import read_layer
from ard.monosemanticity import read_selections
from ard.probing import Evaluator
from ard.results import Result
from ard.run import Cell
from ard.types import Codes

UNIT = "activation z_k of a token"
LARGEST = torch.finfo(torch.float16).max


class KeepTimelines(Evaluator):
    """Write ``timelines.safetensors``: every selected feature's activations along each of its clips in H^k.

    - ``features`` [n]: the selected features of concepts.parquet, ascending.
    - ``values`` (float16), ``offsets`` [n * p + 1]: the activations of feature i on the tokens of its clip j, the j-th
      of ``top_ids`` in concepts.parquet, are values[offsets[i * p + j] : offsets[i * p + j + 1]]. Token t covers the
      time from t to t + 1 times ``seconds_per_token`` of clips.parquet.
    - ``p`` and ``unit`` in the metadata.

    A token takes 2 bytes, and so a concept 2 p times the tokens of a clip: 6 kB with p = 4 clips of 30 s in
    Qwen2-Audio, which has 25 tokens a second. The clips are read back one by one after the pass, since it does not know
    which ones will be representative; nothing else is read. :func:`ard.reports.read_timelines` reads the file.
    """

    needs = ("selections",)
    makes = ("timelines",)

    def __init__(self) -> None:
        super().__init__()

    @torch.inference_mode()
    def evaluate(self, cell: Cell) -> Result | None:
        """Encode the clips and write; there is no figure to report."""
        selection, dictionary = read_selections(cell)["ard"][0], self.dictionary(cell)
        features, order = selection.features.sort()
        rows, p = selection.top_ids[order].flatten(), selection.top_ids.shape[1]
        places: dict[int, list[int]] = {}
        for place, row in enumerate(rows.tolist()):
            places.setdefault(row, []).append(place)
        nothing = torch.empty(0, dtype=torch.float16)
        pieces = [nothing] * len(rows)
        for row, x in read_layer(cell.probe, cell.layer).read_clips(places):
            codes = dictionary.encode(x.to(self.device).float())
            wanted = features[torch.tensor(places[row]) // p].to(self.device)
            values = activations_of(codes, wanted, dictionary.d_sae).clamp(-LARGEST, LARGEST).half().cpu()
            for place, of_feature in zip(places[row], values.T, strict=True):
                pieces[place] = of_feature
        lengths = torch.tensor([0, *map(len, pieces)])
        tensors = {"features": features, "offsets": lengths.cumsum(0), "values": torch.cat([nothing, *pieces])}
        cell.save_tensors("timelines", tensors, {"unit": UNIT, "p": str(p)})
        return None


def activations_of(codes: Codes, features: Int[Tensor, " chosen"], num_features: int) -> Float[Tensor, "tokens chosen"]:
    """Return a few features' activations at every token; a feature that is not among a token's codes is at 0."""
    place = codes.indices.new_full((num_features,), -1)
    place[features] = torch.arange(len(features), device=place.device)
    columns = place[codes.indices]
    tokens, entries = (columns >= 0).nonzero(as_tuple=True)
    values = codes.values.new_zeros(len(columns), len(features))
    values[tokens, columns[tokens, entries]] = codes.values[tokens, entries]
    return values
