"""Whether what two runs measured is the same, but for the last digits of numbers."""

import json

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from ard.files import in_use


def assert_like(found, expected, where):
    """Assert that two values are the same but for the last digits of numbers."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key, value in expected.items():
            assert_like(found[key], value, f"{where}: {key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for place, value in enumerate(expected):
            assert_like(found[place], value, f"{where}: {place}")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-6, nan_ok=True), where
    else:
        assert found == expected, where


def assert_alike(found, expected):
    """Assert that two cells have the same files, but for the last digits of numbers and how long something took."""
    files = set(in_use(expected.folder)) - {"sae"}
    assert set(in_use(found.folder)) - {"sae"} == files
    for name in files:
        kept = [cell.folder / name for cell in (found, expected)]
        if name.endswith(".safetensors"):
            tensors = [load_file(path) for path in kept]
            assert tensors[0].keys() == tensors[1].keys()
            for key, tensor in tensors[1].items():
                torch.testing.assert_close(tensors[0][key], tensor, rtol=1e-6, atol=1e-9, equal_nan=True, msg=key)
        elif name.endswith(".parquet"):
            assert_like(*(pq.read_table(path).to_pylist() for path in kept), name)
        elif name.endswith(".json"):
            results = [json.loads(path.read_text(encoding="utf-8")) for path in kept]
            assert_like(*({**result, "wall_time_s": 0} for result in results), name)
    captions, answers = ([getattr(cell.run, kind) for cell in (found, expected)] for kind in ("captions", "answers"))
    assert pq.read_table(captions[0]).equals(pq.read_table(captions[1]))
    lines = [sorted(path.read_text(encoding="utf-8").splitlines()) for path in answers]
    assert lines[0] == lines[1]
    assert len(lines[0]) > 0
