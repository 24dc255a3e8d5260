"""Dictionaries with named concepts, and a study of them."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ard.run import Run
from ard.study import Store, draw_concepts

FIELDS = [
    ("feature", pa.int64()),
    ("layer", pa.int64()),
    ("name", pa.string()),
    ("selected", pa.bool_()),
    ("top_ids", pa.list_(pa.string())),
    ("captions", pa.list_(pa.string())),
]


def write_concepts(cell, method, names):
    """Write a cell's concepts: one a name, which may be None; feature 0 is not selected."""
    rows = [
        {
            "feature": feature,
            "layer": cell.layer,
            "name": name,
            "selected": feature > 0,
            "top_ids": [f"{method} {feature} {place}" for place in range(4)],
            "captions": [f"Caption {place} of {name}." for place in range(4)],
        }
        for feature, name in enumerate(names)
    ]
    cell.folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, pa.schema(FIELDS)), cell.path("concepts"))


@pytest.fixture
def cells(tmp_path):
    """Make 30 concepts of AR&D and 20 of Poly. Feats., of which some have no name."""
    ours, theirs = (Run(tmp_path).cell(3, expansion) for expansion in (8, None))
    write_concepts(ours, "ours", [None if n % 7 == 3 else f"sound {n}" for n in range(30)])
    write_concepts(theirs, "theirs", [None if n % 7 == 3 else f"raw {n}" for n in range(20)])
    return [ours, theirs]


@pytest.fixture
def store(cells, tmp_path):
    """Make a study of five concepts of each method."""
    return Store.create(Run(tmp_path).study, draw_concepts(cells, 5, seed=0), 0)


@pytest.fixture
def answered(store):
    """Have two people rate, one of them only in part, with labels that a file may trip over."""
    labels = [
        "<script>alert(1)</script>",
        'a "quoted", comma',
        "=SUM(A1)",
        "naïve 雨 🎵",
        "| pipe ; semicolon",
        "a dog",
    ]
    for name, count in (("Anna", 10), ("Björn, the 2nd", 6)):
        rater = store.join(name)
        for place, concept in enumerate(store.order(rater)[:count]):
            store.label(rater, concept, labels[place % len(labels)])
            if place != 3:
                store.rate(rater, concept, (place + len(name)) % 6)
        store.rate(rater, store.order(rater)[0], 1)
    return store
