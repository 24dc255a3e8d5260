"""The controls of a cell: dictionaries of the same width and K that were never trained."""

from typing import cast

from ard.activations import read_manifest
from ard.activations.layer import read_layer
from ard.activations.stream import Probe
from ard.run import Cell
from ard.sae import load_dictionary, make_control
from ard.sae.autoencoder import SAE

CLIPS_PER_BATCH = 32
SEED = 1_000_000  # away from the seeds of trainings, or a control could be what an SAE began from


def draw_control(cell: Cell, seed: int) -> None:
    """Draw the control of a cell such as ``layer-3/e8-untrained-0`` and save it there, beside the trained ``e8``.

    Raises:
        UserError: if there is no trained SAE, or it is of a kind without controls.
    """
    assert cell.control is not None
    trained = cast(SAE, load_dictionary(cell.run.cell(cell.layer, cell.expansion).sae))
    draw = int(cell.label.rpartition("-")[2])
    batches = (batch.x for batch in Probe(read_layer(cell.probe, cell.layer), CLIPS_PER_BATCH))
    num_tokens = read_manifest(cell.probe).num_tokens
    make_control(cell.control, trained, batches, num_tokens, SEED + 1000 * seed + draw).save_pretrained(cell.sae)
