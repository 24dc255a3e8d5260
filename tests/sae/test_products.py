"""Which way a product takes: by the table, by the setting, by the rule, by measurement."""

import logging

import pytest
import torch

from ard.sae import SAETraining, products
from ard.sae.functional import decode_sparse, encode_top_k
from ard.sae.products import ALL_PRODUCTS, PRODUCTS, Order, by_rule, case, check_way, measure, using, way_of
from ard.types import Codes, UserError


def operands(tokens=6, d_in=5, d_sae=12, k=3):
    generator = torch.Generator().manual_seed(0)
    x, rows = torch.randn(tokens, d_in, generator=generator), torch.randn(d_sae, d_in, generator=generator)
    values, indices = (x @ rows.T).topk(k)
    return Codes(values.relu(), indices), x, rows


def test_on_a_cpu_a_quarter_of_the_features_makes_products_dense():
    rows = torch.empty(100, 3)
    assert [by_rule(rows, k, 100) for k in (1, 24, 25, 100)] == ["gather", "gather", "dense", "dense"]


def test_a_table_holds_within_its_context_for_what_it_lists_and_a_way_of_all_for_the_rest():
    rows = torch.empty(100, 3)
    table = {case("dots", rows, 50, 100): "gather"}
    assert way_of("dots", rows, 50, 100) == "dense"
    with using(table):
        assert way_of("dots", rows, 50, 100) == "gather"
        assert way_of("sum_rows", rows, 50, 100) == "dense"
        with using({**table, ALL_PRODUCTS: "dense"}):
            assert way_of("dots", rows, 50, 100) == "gather"
            assert way_of("sum_rows", rows, 1, 100) == "dense"
    assert way_of("dots", rows, 50, 100) == "dense"


def test_cases_differ_by_product_k_shape_and_arithmetic():
    rows = torch.empty(100, 3)
    cases = [
        case("dots", rows, 5, 100),
        case("sum_rows", rows, 5, 100),
        case("dots", rows, 6, 100),
        case("dots", rows, 5, 200),
        case("dots", torch.empty(100, 4), 5, 100),
        case("dots", rows.bfloat16(), 5, 100),
    ]
    assert len(set(cases)) == len(cases)


def test_the_gradients_take_the_way_of_the_context_in_which_codes_were_made(monkeypatch):
    taken = []
    for name in ("sum_rows", "sum_tokens", "dots"):
        compute = getattr(products, name)
        monkeypatch.setattr(products, name, lambda *args, compute=compute: (taken.append(args[-1]), compute(*args))[1])
    codes, x, rows = operands()
    k = codes.indices.shape[1]
    weights = [rows.T.clone().requires_grad_(), torch.zeros(12, requires_grad=True), rows.clone().requires_grad_()]
    with using({ALL_PRODUCTS: "dense"}):
        x_hat = decode_sparse(encode_top_k(x, *weights[:2], k), weights[2])
    x_hat.sum().backward()  # outside of it, as a Trainer does
    assert taken == ["dense"] * 4  # x_hat; the gradients of z, W_dec and W_enc


def test_the_fastest_way_is_taken_and_one_that_does_not_work_is_left_out_and_said(monkeypatch, caplog):
    dots = products.dots

    def fails(x, indices, rows, way):
        if way == "gather":
            raise RuntimeError("no such kernel on this card")
        return dots(x, indices, rows, way)

    monkeypatch.setattr(products, "dots", fails)
    codes, x, rows = operands()
    k = codes.indices.shape[1]
    with caplog.at_level(logging.WARNING):
        table, times = measure(codes, x, rows)
    assert list(table) == list(times) == [case(product, rows, k, len(rows)) for product in PRODUCTS]
    assert table[case("dots", rows, k, len(rows))] == "dense"
    assert "products by 'gather' do not work here: no such kernel on this card" in caplog.text
    for key, way in table.items():
        assert times[key][way] == min(times[key].values())


def test_a_way_that_there_is_not_is_refused():
    with pytest.raises(UserError, match="'fastest' or by one of dense, gather, triton, not 'sparse'"):
        check_way("sparse", torch.empty(0))
    with pytest.raises(UserError, match="cannot be computed by 'triton' on cpu: install Triton for a GPU"):
        check_way("triton", torch.empty(0))
    check_way("dense", torch.empty(0))


def test_a_setting_is_the_table_of_a_training_and_no_checkpoint_changes_it():
    training = SAETraining(4, 2, k=2, products="dense")
    assert training.table == {ALL_PRODUCTS: "dense"}
    training.on_load_checkpoint({"products": {"some": "gather"}})
    assert training.table == {ALL_PRODUCTS: "dense"}
    fastest = SAETraining(4, 2, k=2)
    fastest.on_load_checkpoint({"products": {"some": "gather", ALL_PRODUCTS: "dense"}})
    assert fastest.table == {"some": "gather"}
    fastest.on_load_checkpoint({})  # of an earlier version
    assert fastest.table == {}


def test_the_order_of_entries_is_kept_for_these_indices_and_for_no_others():
    generator = torch.Generator().manual_seed(0)
    indices = torch.stack([torch.randperm(9, generator=generator)[:4] for _ in range(5)])
    first = Order.of_step(indices, 9)
    assert Order.of_step(indices.view(5, 4), 9) is first  # the same memory
    assert Order.of_step(indices.clone(), 9) is not first
    first = Order.of_step(indices, 9)
    indices[0] = indices[0].flip(0)  # changed in place
    second = Order.of_step(indices, 9)
    assert second is not first
    flat = indices.flatten()
    for feature in range(9):
        entries = second.entries[second.starts[feature] : second.starts[feature + 1]]
        assert entries.tolist() == (flat == feature).nonzero().flatten().tolist()
    assert Order.of_step(indices[1:3], 9) is not Order.of_step(indices[3:5], 9)  # of the same size


def test_values_are_summed_by_feature():
    codes = Codes(torch.tensor([[1.0, 2.0], [4.0, 8.0]]), torch.tensor([[0, 2], [2, 3]]))
    assert products.sum_values(codes, 5).tolist() == [1, 0, 6, 8, 0]


def test_in_inference_the_order_of_changed_codes_is_made_anew():
    with torch.inference_mode():
        indices = torch.tensor([[2, 0], [1, 0]])
        assert Order.of_step(indices, 3).entries.tolist() == [1, 3, 2, 0]
        indices[0, 1] = 2
        assert Order.of_step(indices, 3).entries.tolist() == [3, 2, 0, 1]
