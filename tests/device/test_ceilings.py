"""One training step at the paper's full shape, on tensors without numbers: its operators, FLOPs and memory."""

import weakref

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from ard.sae import SAETraining
from tests.device.pretend import pretend_cuda

D_IN, K, TOKENS = 4096, 250, 4096
GB = 1e9


class Count(TorchDispatchMode):
    """Count operators and FLOPs, and watch how much memory is held at most."""

    def __init__(self):
        super().__init__()
        self.flops, self.num_operators, self.held, self.peak, self.storages = {}, 0, 0, 0, {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for tensor in (leaf for leaf in tree_leaves(found) if isinstance(leaf, torch.Tensor)):
            storage = tensor.untyped_storage()
            if storage._cdata not in self.storages:
                self.storages[storage._cdata] = storage.nbytes()
                self.held += storage.nbytes()
                self.peak = max(self.peak, self.held)
                weakref.finalize(storage, self.free, storage._cdata)
        self.num_operators += not func.is_view
        if func._overloadpacket in flop_registry:
            operand = next(leaf for leaf in tree_leaves(args) if isinstance(leaf, torch.Tensor))
            flops = flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=found)
            self.flops[operand.dtype] = self.flops.get(operand.dtype, 0) + flops
        return found

    def free(self, storage):
        self.held -= self.storages.pop(storage)


def on_device(module):
    """Put a module of tensors without numbers on the device; `to` would exchange their numbers."""
    for part in module.modules():
        for name, weight in part._parameters.items():
            moved = torch.empty_strided(weight.shape, weight.stride(), device="cuda")
            part._parameters[name] = torch.nn.Parameter(moved, requires_grad=weight.requires_grad)
        for name, buffer in part._buffers.items():
            part._buffers[name] = None if buffer is None else torch.zeros_like(buffer, device="cuda")
    return module


def step(expansion, *, autocast=True, products="dense", robust=False):
    """Take the second step of a training; return what was counted, and what was waited for."""
    with FakeTensorMode(), Count() as count, pretend_cuda() as waits:
        module = on_device(SAETraining(D_IN, expansion, k=K, products=products, robust=robust))
        module.log_dict = module.log = lambda *_, **__: None
        optimizer = module.configure_optimizers()
        x = torch.randn(TOKENS, D_IN, device="cuda", dtype=torch.bfloat16)
        for _ in range(2):
            waits.clear()
            count.flops, count.num_operators, count.peak = {}, 0, count.held
            with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
                loss = module.training_step(x.float(), 0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            del loss
        return count, list(waits)


def product(expansion):
    """FLOPs of a product of all tokens with all features."""
    return 2 * TOKENS * D_IN * D_IN * expansion


@pytest.mark.parametrize(("expansion", "most_gb"), [(4, 2.8), (8, 5.3), (16, 10.4)])
def test_a_step_in_bfloat16_is_five_products_and_fits_any_card(expansion, most_gb):
    count, waits = step(expansion)
    assert waits == []
    assert count.flops == {torch.bfloat16: 5 * product(expansion)}
    assert count.num_operators <= 80
    assert count.peak <= most_gb * GB  # weights, gradients and Adam's states included


def test_products_in_float32_are_as_many():
    count, _ = step(8, autocast=False)
    assert count.flops == {torch.float32: 5 * product(8)}


def test_sparse_products_leave_one_dense_one_and_never_build_a_row_for_every_code():
    count, waits = step(8, products="gather")
    assert waits == []
    assert count.flops == {torch.bfloat16: product(8)}
    assert count.peak <= 7 * GB < TOKENS * K * D_IN * 2  # bytes of such rows in bfloat16, 8.4 GB


def test_auxk_costs_as_much_again_and_a_bias_of_the_decoder_nothing():
    count, waits = step(8, robust=True)
    assert waits == []
    assert count.flops == {torch.bfloat16: 10 * product(8)}
    assert count.peak <= 9 * GB


def test_expansions_side_by_side_fit_a_card():
    count, waits = step([4, 8, 16])
    assert waits == []
    assert count.flops == {torch.bfloat16: 5 * product(4 + 8 + 16)}
    assert count.peak <= 19 * GB
