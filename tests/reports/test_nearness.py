"""What is near a concept, and the map: against brute force, and kept where nothing has changed."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ard.reports import atlas as atlas_module
from ard.reports.atlas import BY_DIRECTION, BY_NAME, atlas, layout
from ard.reports.nearness import MOST, ROWS_AT_ONCE, by_clips, by_cosine, by_name
from ard.run import Run


@pytest.mark.parametrize("num", [2, 5, 40, ROWS_AT_ONCE + 3])
def test_the_nearest_by_cosine_are_those_of_all_pairs(num):
    vectors = torch.randn(num, 8, generator=torch.Generator().manual_seed(num))
    features = list(range(100, 100 + num))
    near, unit = by_cosine(vectors, features), vectors / vectors.norm(dim=1, keepdim=True)
    for row in (0, num // 2, num - 1):
        cosines = (unit @ unit[row]).tolist()
        expected = sorted((other for other in range(num) if other != row), key=lambda other: -cosines[other])[:MOST]
        assert [of.feature for of in near[features[row]]] == [features[other] for other in expected]
        assert [of.nearness for of in near[features[row]]] == pytest.approx([cosines[at] for at in expected], abs=1e-5)


def test_concepts_that_share_clips_are_near_most_shared_first():
    rows = [
        {"feature": f, "top_ids": ids}
        for f, ids in ((1, ["a", "b", "c"]), (2, ["c", "d"]), (3, ["b", "c", "a"]), (4, None))
    ]
    near = by_clips(rows)
    assert near[1] == [(3, 3.0), (2, 1.0)]
    assert near[4] == []


def rows_of(names):
    return [{"feature": feature, "name": name} for feature, name in names.items()]


def test_without_embeddings_only_the_same_name_is_near(tmp_path):
    near = by_name(Run(tmp_path).cell(0, 8), rows_of({1: "Rain", 2: "rain", 3: "wind", 4: None}))
    assert {feature: [of.feature for of in others] for feature, others in near.items()} == {1: [2], 2: [1], 3: []}


@pytest.fixture
def cell(tmp_path):
    """Eight named features with embeddings in two heaps, and decoder rows."""
    cell = Run(tmp_path).cell(0, 8)
    generator = torch.Generator().manual_seed(0)
    heaps = torch.eye(2, 16).repeat_interleave(10, dim=0) + 0.02 * torch.randn(20, 16, generator=generator)
    cell.save_tensors("name_embeddings", {"features": torch.arange(20), "embeddings": heaps.half()})
    cell.sae.mkdir()
    save_file({"W_dec": torch.randn(30, 4, generator=generator)}, cell.sae / "sae_weights.safetensors")
    (cell.sae / "cfg.json").write_text("{}", encoding="utf-8")
    return cell


def test_alike_names_lie_together_and_the_map_is_kept_until_something_changes(cell, tmp_path, monkeypatch):
    path, features = tmp_path / "map.json", list(range(20))
    first = atlas(cell, features, path)
    assert first.by == BY_NAME
    places = np.array([first.places[feature] for feature in features])
    assert places.min() == 0
    assert places.max() == 1
    apart = np.linalg.norm(places[:10].mean(axis=0) - places[10:].mean(axis=0))
    assert apart > 2 * max(
        np.linalg.norm(heap - heap.mean(axis=0), axis=1).mean() for heap in (places[:10], places[10:])
    )
    monkeypatch.setattr(atlas_module, "layout", None)  # it is not made twice
    assert atlas(cell, features, path) == first
    monkeypatch.setattr(atlas_module, "layout", layout)
    assert set(atlas(cell, features[:12], path).places) == set(features[:12])
    path.write_text(json.dumps({"stamp": "another"}), encoding="utf-8")
    assert atlas(cell, features, path).places == first.places
    for damaged in ("{", "[1]"):
        path.write_text(damaged, encoding="utf-8")
        assert atlas(cell, features, path) == first


def test_without_names_the_map_is_of_directions_and_without_those_there_is_none(cell, tmp_path):
    cell.path("name_embeddings").unlink()
    found = atlas(cell, [3, 5, 8, 13], tmp_path / "map.json")
    assert found.by == BY_DIRECTION
    assert list(found.places) == [3, 5, 8, 13]
    assert atlas(cell, [3, 5], tmp_path / "map.json") is None
    (cell.sae / "cfg.json").unlink()
    assert atlas(cell, [3, 5, 8, 13], tmp_path / "map.json") is None


def test_equal_vectors_are_kept_apart():
    places = layout(torch.ones(12, 4))
    assert len(np.unique(places.round(4), axis=0)) == 12
