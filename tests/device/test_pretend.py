"""The pretended device refuses what CUDA refuses, and sees what a host waits for: the other tests rest on this."""

import pytest
import torch

from tests.device.pretend import CUDA, OnCuda, pretend_cuda

REFUSED = {
    "a sum over two devices": lambda x, y: x + y,
    "a product over two devices": lambda x, y: x @ y.T,
    "an index on the other device": lambda x, y: x.gather(1, y.long()),
    "rows by an index on the other device": lambda x, y: x.index_select(0, y[0].long()),
    "isin": lambda x, y: torch.isin(x, y),
    "searchsorted": lambda x, y: torch.searchsorted(x.contiguous(), y.contiguous()),
    "an index on the device into a tensor that is not": lambda x, y: y[x[0].long()],
    "joining": lambda x, y: torch.cat([x, y]),
    "a generator of the CPU": lambda x, y: x.normal_(generator=torch.Generator()),
    "NumPy": lambda x, y: x.numpy(),
}
ALLOWED = {
    "a scalar of the CPU": lambda x, y: x * torch.tensor(2.0),
    "an index of the CPU": lambda x, y: x[torch.tensor([0])],
    "copying to the device": lambda x, y: x + y.to(x.device),
    "copying into it": lambda x, y: x.copy_(y),
    "a tensor made there": lambda x, y: x + torch.ones(3, device="cuda"),
}
WAITED_FOR = {
    "item": lambda x: x.sum().item(),
    "float": lambda x: float(x.sum()),
    "a condition": lambda x: 1 if x.sum() > 0 else 2,
    "nonzero": lambda x: x.nonzero(),
    "a mask": lambda x: x[x > 0],
    "a value put where a mask says": lambda x: x.__setitem__(x > 0, torch.zeros((), device=CUDA)),
    "unique": lambda x: x.unique(),
    "bincount": lambda x: x.flatten().long().bincount(),
    "repeats of unknown number": lambda x: x.repeat_interleave(x[0].long(), dim=0),
    "cpu": lambda x: x.cpu(),
    "to": lambda x: x.to("cpu"),
    "copy_": lambda x: torch.empty(3, 3).copy_(x),
    "tolist": lambda x: x.tolist(),
    "torch.tensor": lambda x: torch.tensor(1.0, device=x.device),
    "new_tensor": lambda x: x.new_tensor([1.0]),
    "a list as index": lambda x: x[[0, 1]],
}
NOT_WAITED_FOR = {
    "arithmetic": lambda x: (x @ x.T).relu().sum().mul(2),
    "full": lambda x: torch.full((), 3.0, device=x.device),
    "where": lambda x: torch.where(x > 0, x, 0),
    "an index of the device": lambda x: x[torch.arange(2, device=x.device)],
    "repeats of known number": lambda x: x.repeat_interleave(2, dim=0),
    "to the device": lambda x: torch.ones(3).to(x.device, non_blocking=True),
    "sorting": lambda x: x.sort(dim=1, stable=True),
}


@pytest.mark.parametrize("compute", REFUSED.values(), ids=REFUSED)
def test_two_devices_do_not_meet(compute):
    with pretend_cuda(), pytest.raises((RuntimeError, TypeError)):
        compute(torch.ones(3, 3, device="cuda"), torch.ones(3, 3))


@pytest.mark.parametrize("compute", ALLOWED.values(), ids=ALLOWED)
def test_what_cuda_allows_is_allowed_and_stays_on_the_device(compute):
    with pretend_cuda():
        found = compute(torch.ones(3, 3, device="cuda"), torch.ones(3, 3))
    assert isinstance(found, OnCuda)
    assert found.device == CUDA


@pytest.mark.parametrize("compute", WAITED_FOR.values(), ids=WAITED_FOR)
def test_what_a_host_waits_for_is_written_down_once_with_its_place(compute):
    with pretend_cuda() as waits:
        compute(torch.ones(3, 3, device="cuda"))
    assert len(waits) == 1
    assert "test_pretend.py" in waits[0].place


@pytest.mark.parametrize("compute", NOT_WAITED_FOR.values(), ids=NOT_WAITED_FOR)
def test_what_a_host_does_not_wait_for_is_not(compute):
    with pretend_cuda() as waits:
        compute(torch.ones(3, 3, device="cuda"))
    assert waits == []


def test_gradients_are_on_the_device_and_are_those_of_the_cpu():
    weight, x = torch.randn(4, 3), torch.randn(5, 4)
    expected = torch.nn.functional.linear(x, weight.T).pow(2).sum()
    gradient = torch.autograd.grad(torch.nn.functional.linear(x, weight.requires_grad_().T).pow(2).sum(), weight)[0]
    with pretend_cuda():
        layer = torch.nn.Linear(4, 3, bias=False).to("cuda")
        layer.weight.data.copy_(weight.detach().T)
        found = layer(x.to("cuda")).pow(2).sum()
        found.backward()
        assert layer.weight.grad.device == CUDA
        torch.testing.assert_close(layer.weight.grad.cpu().T, gradient)
        torch.testing.assert_close(found.cpu(), expected.detach())
