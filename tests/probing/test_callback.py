import pytest
import torch

from ard.activations.store import write_manifest, write_shard
from ard.probing import InputNorms
from ard.run import Run


def test_norms_are_written_by_position(tmp_path):
    run, x = Run(tmp_path), torch.arange(5.0)[:, None].expand(5, 128).contiguous()
    about = {"model": "none", "layers": [2], "dtype": "float32"}
    clips = [({"id": "a", "num_tokens": 3}, {2: x[:3]}), ({"id": "b", "num_tokens": 2}, {2: x[3:]})]
    write_shard(run.activations("probe"), 0, clips, [], about)
    write_manifest(run.activations("probe"), 1, 128, about)
    found = InputNorms(num_positions=2)(run.cell(2, None)).details
    assert found["mean"] == pytest.approx([1.5 * 128**0.5, 2.5 * 128**0.5, 2 * 128**0.5])
    assert found["largest"] == pytest.approx([3 * 128**0.5, 4 * 128**0.5, 2 * 128**0.5])
