"""Where names lie in CLAP's space is kept for those that there are, and not once there is no such space."""

import math

import torch

from ard.monosemanticity import Selection
from ard.naming.catalogue import Named, Space, weigh, write_name_embeddings
from ard.naming.namer import Name
from ard.run import Run


def embed(texts):
    return torch.tensor([[len(text), 1.0] for text in texts])


def test_names_have_embeddings_by_feature_and_unnamed_ones_have_none(tmp_path):
    cell = Run(tmp_path).cell(0, 8)
    names = [Name("rain", [], 1.0), Name(None, [], math.nan), Name("a long roll", [], 1.0)]
    selection = Selection(torch.tensor([9, 4, 7]), torch.zeros(3), torch.zeros(3, 2, dtype=torch.int64))
    space = Space(embed, torch.ones(2, 2), torch.tensor([0, 1]))
    named: Named = weigh(selection, names, space, 0.99)
    write_name_embeddings(cell, named, space)
    stored = cell.tensors("name_embeddings")
    assert stored["features"].tolist() == [9, 7]
    assert stored["embeddings"].tolist() == [[4, 1], [11, 1]]
    write_name_embeddings(cell, named, None)
    assert not cell.path("name_embeddings").exists()
