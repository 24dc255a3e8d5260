import pytest
import torch

from ard.probing import InputNorms
from ard.run import Run
from tests.stores import write_activations


def test_norms_are_written_by_position(tmp_path):
    run, x = Run(tmp_path), torch.arange(5.0)[:, None].expand(5, 128).contiguous()
    write_activations(run.activations("probe"), [({"id": "a"}, x[:3]), ({"id": "b"}, x[3:])], layer=2)
    found = InputNorms(num_positions=2)(run.cell(2, None)).details
    assert found["mean"] == pytest.approx([1.5 * 128**0.5, 2.5 * 128**0.5, 2 * 128**0.5])
    assert found["largest"] == pytest.approx([3 * 128**0.5, 4 * 128**0.5, 2 * 128**0.5])
