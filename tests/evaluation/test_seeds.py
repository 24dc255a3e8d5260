import pytest
import torch

from ard.evaluation import compare_seeds
from ard.evaluation.seeds import nearest_directions
from ard.results import Result
from ard.run import Run
from ard.sae import TopKSAE
from ard.types import UserError

D_IN, D_SAE = 64, 40


def write_cell(folder, decoder):
    """A cell with an SAE of this decoder, all of whose features are selected."""
    cell = Run(folder).cell(3, 8)
    sae = TopKSAE(decoder.shape[1], len(decoder), k=4)
    with torch.no_grad():
        sae.W_dec.copy_(decoder)
    sae.save_pretrained(cell.sae)
    features = torch.arange(len(decoder))
    stored = {"features": features, "m": features.float(), "top_ids": torch.zeros(len(decoder), 2, dtype=torch.int64)}
    cell.save_tensors("selections", {f"ard/0/{name}": tensor for name, tensor in stored.items()})
    return cell


def decoder(seed):
    return torch.randn(D_SAE, D_IN, generator=torch.Generator().manual_seed(seed))


def test_the_nearest_direction_is_found_whatever_its_length():
    of, order = decoder(0), torch.randperm(D_SAE, generator=torch.Generator().manual_seed(1))
    cosines, indices = nearest_directions(of, 3 * of[order])
    torch.testing.assert_close(cosines, torch.ones(D_SAE))
    assert torch.equal(order[indices], torch.arange(D_SAE))


def test_what_comes_back_in_all_other_runs_is_counted_and_chance_beside_it(tmp_path):
    own = decoder(0)
    second, third = decoder(1), decoder(2)
    second[:30], third[10:] = own[:30].flip(0), own[10:] + 0.1 * decoder(3)[10:]
    cells = [write_cell(tmp_path / str(i), weights) for i, weights in enumerate((own, second, third))]
    result = compare_seeds(cells)
    (row,) = Result.load(cells[0].result_path("seeds")).rows
    assert row == result.rows[0]
    assert row.figures["come_back"].value == 20 / 40  # features 10 to 29 are in both
    assert row.figures["come_back_shuffled"].value == 0
    assert [figure.better for figure in row.figures.values()] == ["higher", "neither"]
    concepts = result.details["concepts"]
    assert [where["feature"] for where in concepts[12]["elsewhere"]] == [17, 12]
    assert concepts[35]["elsewhere"][0]["cosine"] < 0.7
    assert concepts[0]["name"] is None


def test_names_come_back_whatever_their_direction(tmp_path):
    cells = [write_cell(tmp_path / str(i), decoder(i)) for i in range(3)]
    said = (["dog", "rain", "dog", None], ["rain", None, "dog", "wind"], ["dog", "rain", "bell", None])
    for cell, names in zip(cells, said, strict=True):
        rows = [{"feature": i, "name": names[i] if i < 4 else None} for i in range(D_SAE)]
        if cell is cells[2]:
            rows[1]["name"] = None
        cell.save_rows("concepts", rows)
    figure = compare_seeds(cells).rows[0].figures["name_comes_back"]
    assert (figure.value, figure.n) == (pytest.approx(2 / 3), 3)  # both dogs, and rain is not in the third


def test_runs_that_cannot_be_compared_are_refused(tmp_path):
    first = write_cell(tmp_path / "a", decoder(0))
    with pytest.raises(UserError, match="1 run given, at least 2 are needed"):
        compare_seeds([first])
    with pytest.raises(UserError, match="a run is given twice: give each once"):
        compare_seeds([first, first])
    with pytest.raises(
        UserError, match=r"b/layer-3/e8' holds no scored SAE: run `ard table 4` with that --out and --seed first"
    ):
        compare_seeds([first, Run(tmp_path / "b").cell(3, 8)])
    narrow = write_cell(tmp_path / "c", torch.randn(D_SAE, 8))
    with pytest.raises(UserError, match=r"vectors of \[64, 8\] numbers: compare runs on one model"):
        compare_seeds([first, narrow])
