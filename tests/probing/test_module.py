import pytest

from ard.probing import Encoding
from ard.run import Run
from ard.sae import TopKSAE
from ard.types import UserError
from tests.sae.test_dictionary import Halves


def test_encoding_takes_the_sae_of_a_cell_raw_coordinates_or_a_dictionary_of_ones_own(tmp_path):
    run, own = Run(tmp_path), Halves(4)
    own.method = "Halves"
    TopKSAE(4, 8, k=2).save_pretrained(run.cell(3, 2).sae)
    encodings = [
        Encoding(run.cell(3, 2).folder, 4),
        Encoding(run.cell(3, None).folder, 4),
        Encoding(tmp_path / "layer-3" / "halves", 4, own),
    ]
    found = [(encoding.dictionaries[0].method, encoding.dictionaries[0].expansion) for encoding in encodings]
    assert found == [("AR&D", 2), ("Poly. Feats.", None), ("Halves", 2)]
    for dictionary in (None, own):
        with pytest.raises(
            UserError, match="the dictionary is for a width of 4, and d_in is 6: give one that was made"
        ):
            Encoding(run.cell(3, 2).folder, 6, dictionary)


def test_a_cell_without_an_sae_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no SAE"):
        Encoding(Run(tmp_path).cell(3, 2).folder, 4)


def test_cells_that_cannot_share_a_pass_are_refused(tmp_path):
    run = Run(tmp_path)
    with pytest.raises(UserError, match=r"the cells are of layers \[1, 3\]: give cells of one layer"):
        Encoding([run.cell(1, None).folder, run.cell(3, None).folder], 4)
    with pytest.raises(UserError, match="one dictionary is given for 2 cells: give one cell"):
        Encoding([run.cell(3, None).folder, run.cell(3, "half-waves").folder], 4, Halves(4))
