import io

import pytest
import torch
from rich.console import Console

from ard.cli.seeds import seeds_table
from ard.evaluation import compare_seeds
from ard.evaluation.alignment import drawn_tokens, like_tokens
from ard.evaluation.seeds import nearest_directions
from ard.evaluation.vectors import GAUSSIAN, NULLS, PERMUTED, SHUFFLED, TOKENS
from ard.results import Result
from ard.run import Run
from ard.sae import TopKSAE
from ard.types import UserError
from tests.stores import write_activations

D_IN, D_SAE = 64, 40


def tokens(count, seed=0):
    """Tokens that vary in few directions, far from 0."""
    draw = torch.Generator().manual_seed(seed)
    mix = torch.randn(D_IN, D_IN, generator=torch.Generator().manual_seed(9)) * (0.8 ** torch.arange(D_IN))[:, None]
    return torch.randn(count, D_IN, generator=draw) @ mix + 3


def extract(run, num_clips=50):
    clips = [({"id": f"{n}"}, tokens(20, n)) for n in range(num_clips)]
    write_activations(run.activations("probe"), clips, layer=3)


def write_cell(folder, decoder):
    """A cell with an SAE of this decoder, all of whose features are selected."""
    cell = Run(folder).cell(3, 8)
    sae = TopKSAE(decoder.shape[1], len(decoder), k=4)
    with torch.no_grad():
        sae.W_dec.copy_(decoder)
        sae.W_enc.copy_(decoder.T)
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
    row, *nulls = Result.load(cells[0].result_path("seeds")).rows
    assert row == result.rows[0]
    assert [null.method for null in nulls] == ["AR&D, shuffled coordinates", "AR&D, random rotation"]
    assert result.details["not_measured"][0].startswith("profiles, and the nulls 'Gaussian with the covariance of x'")
    assert row.figures["come_back"].value == 20 / 40  # features 10 to 29 are in both
    assert row.figures["come_back_shuffled"].value == 0
    assert row.figures["decoder_share"].value == pytest.approx((30 + 30) / 80)  # on average over the runs
    assert row.figures["decoder_mcc_seeds"].n == 2
    assert (row.figures["decoder_mcc_seeds"].over, row.figures["decoder_mcc"].over) == ("seeds", "concepts")
    assert row.figures["come_back_shuffled"].better == "neither"
    assert {figure.better for null in nulls for figure in null.figures.values()} == {"neither"}
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


def shown(result):
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(seeds_table(result))
    return console.export_text()


def test_equal_dictionaries_come_back_whole_whatever_the_order_of_their_features(tmp_path):
    own = decoder(0)
    cells = [
        write_cell(tmp_path / str(i), own[torch.randperm(D_SAE, generator=torch.Generator().manual_seed(i))])
        for i in range(2)
    ]
    extract(cells[0].run)
    result = compare_seeds(cells)
    figures = result.rows[0].figures
    for measure in ("decoder", "encoder", "profile"):
        for suffix in ("", "_live"):
            assert figures[f"{measure}_mcc{suffix}"].value == pytest.approx(1, abs=1e-5)
            assert figures[f"{measure}_share{suffix}"].value == 1
            assert figures[f"{measure}_beyond{suffix}"].low > 0
    assert "decoder_mcc_seeds" not in figures  # one other run has no range
    nulls = {row.method.partition(", ")[2]: row.figures for row in result.rows[1:]}
    assert set(nulls) == set(NULLS)
    assert set(nulls[PERMUTED]) == {"profile_mcc", "profile_share", "profile_mcc_live", "profile_share_live"}
    assert not any(name.startswith("profile") for name in nulls[SHUFFLED])
    assert "but not" not in result.details["verdict"]
    silent = figures["decoder_mcc"].n - figures["profile_mcc"].n  # in all clips, so they have no profile
    of_profiles = [concept["elsewhere"][0] for concept in result.details["concepts"]]
    assert 0 < silent == sum(where["by_profile"] is None for where in of_profiles) < D_SAE / 2
    assert all(where["by_profile"] in (None, where["feature"]) for where in of_profiles)
    assert "decoder directions" in shown(result)


@pytest.mark.parametrize("draw", [like_tokens, drawn_tokens])
@pytest.mark.parametrize("seed", range(3))
def test_directions_that_know_the_covariance_alone_are_reported_as_chance(draw, seed, tmp_path):
    drawn = [draw(tokens(1000, i), D_SAE, torch.Generator().manual_seed(10 * seed + i)) for i in range(2)]
    cells = [write_cell(tmp_path / str(i), directions) for i, directions in enumerate(drawn)]
    extract(cells[0].run)
    result = compare_seeds(cells)
    figures = result.rows[0].figures
    assert figures["decoder_mcc"].value > 1.2 * result.rows[1].figures["decoder_mcc"].value  # the null that was
    assert figures["come_back"].value == pytest.approx(result.rows[3].figures["come_back"].value, abs=0.25)
    for suffix in ("", "_live"):
        assert figures[f"decoder_beyond{suffix}"].low <= 0
        assert result.details["strongest_null"][f"decoder{suffix}"] in (GAUSSIAN, TOKENS)
    assert "no more than by chance come back decoder directions" in result.details["verdict"]


def test_names_come_back_one_to_one_and_are_held_to_names_of_other_things(tmp_path):
    cells = [write_cell(tmp_path / str(i), decoder(i)) for i in range(2)]
    said = (["dog", "rain", "dog", "bell"], ["rain", None, "dog", "wind"])
    for cell, names in zip(cells, said, strict=True):
        cell.save_rows("concepts", [{"feature": i, "name": name} for i, name in enumerate(names)])
    cells[0].run.cell(3, None).save_rows("concepts", [{"feature": i, "name": n} for i, n in enumerate(("dog", "owl"))])
    cells[0].save_rows("names", [{"scorer": "random", "draw": d, "name": "owl"} for d in range(3)])
    result = compare_seeds(cells)
    own, raw, random = result.rows[0], *result.rows[-2:]
    assert own.figures["name_share"].value == 2 / 4  # one dog, and rain
    assert own.figures["name_comes_back"].value == 3 / 4
    assert raw.method == "AR&D, names of raw coordinates"
    assert (raw.figures["name_share"].value, random.figures["name_share"].value) == (0.5, 0)
    assert "names (0.50; names of raw coordinates 0.50)" in result.details["verdict"]
    assert "names of raw coordinates" not in shown(result)
    assert "equal" in shown(result)


def test_only_live_features_have_partners(tmp_path):
    own = decoder(0)
    cells = [write_cell(tmp_path / str(i), own) for i in range(2)]
    alive = torch.ones(D_SAE, dtype=torch.int64)
    alive[:10] = 0
    cells[1].save_tensors("representatives", {"n_active": alive})
    result = compare_seeds(cells)
    assert result.details["num_live"] == [40, 30]
    figures = result.rows[0].figures
    assert figures["decoder_share_live"].value == 30 / 40
    assert (figures["decoder_share"].value, figures["come_back"].value) == (0.75, 0.75)
    assert all(where["feature"] >= 10 for concept in result.details["concepts"] for where in concept["elsewhere"])


def test_of_many_live_features_a_part_is_paired(tmp_path, monkeypatch):
    monkeypatch.setattr("ard.evaluation.vectors.MOST_LIVE", 7)
    monkeypatch.setattr("ard.evaluation.vectors.MOST_CLIPS", 13)
    cells = [write_cell(tmp_path / str(i), decoder(0)) for i in range(2)]
    extract(cells[0].run)
    result = compare_seeds(cells)
    assert result.choices["live_features_paired"] == "7 of 40"
    assert result.choices["profile"] == "Eq. 2 over 13 clips of the first run's probe split"
    assert (result.rows[0].figures["decoder_mcc_live"].n, result.rows[0].figures["decoder_mcc"].n) == (7, 40)
