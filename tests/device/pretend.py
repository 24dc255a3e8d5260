"""A CUDA device that is not there: tensors that say they are on cuda:0 and hold their numbers on the CPU.

Inside :func:`pretend_cuda`, CUDA's rules hold: tensors of two devices do not meet, but for CPU scalars and CPU indices,
and a tensor on the device cannot become a NumPy array. Whatever would make the host wait for a real device is written
down with its place in the code. Kernels' types, streams, memory and rounding are not imitated.

To C++, the tensors are on the CPU, so that autograd needs nothing that a CPU build of torch lacks; Python sees cuda:0.
"""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import wraps
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from lightning import Trainer
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

from ard.activations import layer
from ard.sae import products

CUDA = torch.device("cuda:0")
CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]

WAITS = {
    "_local_scalar_dense": "item",
    "nonzero": "nonzero",
    "masked_select": "masked_select",
    "_unique2": "unique",
    "unique_dim": "unique",
    "unique_consecutive": "unique",
    "equal": "equal",
    "is_nonzero": "bool",
    "bincount": "bincount",
    "repeat_interleave": "repeat_interleave without output_size",
}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
BOTH_DEVICES = {"_to_copy", "copy_", "copy", "_has_compatible_shallow_copy_type", *INDEXING}
NO_CPU_SCALARS = {"scatter_reduce_", "searchsorted", "embedding_bag", "_embedding_bag"}


class Wait(NamedTuple):
    """Something that a host waits for: what it is, and where in the code it is asked for."""

    what: str
    place: str


class OnCuda(torch.Tensor):
    """A tensor on the pretended device."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=CPU,
        )

    def __init__(self, inner):
        self.inner = inner

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    def __repr__(self):
        return f"OnCuda({self.inner!r})"

    def __deepcopy__(self, memo):
        copied = OnCuda(self.inner.detach().clone())
        if isinstance(self, torch.nn.Parameter):
            copied = torch.nn.Parameter(copied, requires_grad=self.requires_grad)
        memo[id(self)] = copied
        return copied

    def __reduce_ex__(self, protocol):
        return self.inner.detach().__reduce_ex__(protocol)  # on the CPU, as a checkpoint is loaded

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


_waits: list[Wait] = []


def _place():
    """Return the innermost line of the package, or else of Lightning or of a test, that is being executed."""
    frames = [frame for frame in traceback.extract_stack() if frame.filename != __file__]
    for folder in (f"{ROOT / 'ard'}/", "/lightning/", f"{ROOT / 'tests'}/", ""):
        within = [frame for frame in frames if folder in frame.filename]
        if within:
            return f"{'/'.join(Path(within[-1].filename).parts[-2:])}:{within[-1].lineno} {within[-1].line}"
    raise AssertionError("no code is being executed")


def _is_cuda(device):
    return device is not None and torch.device(device).type == "cuda"


def _plain(value):
    if isinstance(value, OnCuda):
        return value.inner
    return CPU if isinstance(value, torch.device) else value


def _run(func, args, kwargs):
    """Execute an operator on the numbers, by the device's rules."""
    name = func._schema.name.split("::")[-1]
    flat = tree_flatten((args, kwargs))[0]
    ours = [t for t in flat if isinstance(t, OnCuda)]
    others = [t for t in flat if isinstance(t, torch.Tensor) and not isinstance(t, OnCuda)]
    device = kwargs.get("device", next((d for d in flat if isinstance(d, torch.device)), None))
    if ours:
        _check(func, name, args, kwargs, others)
        _note(name, args, kwargs, device)
    on_cuda = _is_cuda(device) if device is not None else bool(ours)
    if name == "copy_":
        on_cuda = isinstance(args[0], OnCuda)
    plain_args, plain_kwargs = tree_map(_plain, (args, kwargs))
    if "device" in plain_kwargs and plain_kwargs["device"] is not None:
        plain_kwargs["device"] = CPU
    if plain_kwargs.get("pin_memory"):
        plain_kwargs["pin_memory"] = False
    if func is torch.ops.aten.mm.dtype and not isinstance(plain_args[0], FakeTensor):  # which a CPU does not have
        wide = plain_args[2]
        found = torch.mm(plain_args[0].to(wide), plain_args[1].to(wide))
    else:
        found = func(*plain_args, **plain_kwargs)
    same = {id(t.inner): t for t in ours}  # what works in place returns what it was given

    def wrap(tensor):
        if not isinstance(tensor, torch.Tensor) or isinstance(tensor, OnCuda):
            return tensor
        if id(tensor) in same:
            return same[id(tensor)]
        return OnCuda(tensor) if on_cuda else tensor

    view = bool(ours) and on_cuda and func.is_view
    normal = view and not ours[0].is_inference()  # then so is a view of it, also within inference mode
    with torch._C._InferenceMode(False) if normal else nullcontext():
        wrapped = tree_map(wrap, found)
    if view and not torch.is_inference_mode_enabled():
        return return_and_correct_aliasing(func, args, kwargs, wrapped)
    return wrapped


def _check(func, name, args, kwargs, others):
    """Refuse what CUDA refuses: tensors of two devices, and a generator of the CPU."""
    generator = kwargs.get("generator")
    if generator is not None and generator.device.type == "cpu":
        raise RuntimeError(f"Expected a 'cuda' device type for generator but found 'cpu' at {_place()}")
    if name in INDEXING:
        if not isinstance(args[0], OnCuda):
            raise RuntimeError(f"indices should be either on cpu or on the same device as the tensor at {_place()}")
        return
    refused = [t for t in others if t.dim() > 0 or name in NO_CPU_SCALARS]
    if refused and name not in BOTH_DEVICES:
        shapes = [(tuple(t.shape), t.dtype) for t in refused]
        raise RuntimeError(f"Expected all tensors to be on the same device: {func}, {shapes} on the CPU, at {_place()}")


def _note(name, args, kwargs, device):
    """Write down what makes a host wait."""
    what = WAITS.get(name)
    if name == "repeat_interleave" and kwargs.get("output_size") is not None:
        what = None
    if name in INDEXING and any(t is not None and t.dtype in (torch.bool, torch.uint8) for t in args[1]):
        what = "boolean mask"
    if (name == "_to_copy" and device is not None and not _is_cuda(device)) or (
        name == "copy_" and not isinstance(args[0], OnCuda)
    ):
        what = "copy to the host"
    if what:
        _waits.append(Wait(what, _place()))


class _Operators(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        flat = tree_flatten((args, kwargs))[0]
        ours = any(isinstance(t, OnCuda) or (isinstance(t, torch.device) and t.type == "cuda") for t in flat)
        return _run(func, args, kwargs) if ours or _is_cuda(kwargs.get("device")) else func(*args, **kwargs)


class _Functions(TorchFunctionMode):
    """What C++ decides by the device that it sees, or what waits before an operator is reached."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        first = args[0] if args else None
        if (
            func in (torch.tensor, torch.as_tensor)
            and _is_cuda(kwargs.get("device"))
            and not isinstance(first, torch.Tensor)
        ):
            _waits.append(Wait(f"torch.{func.__name__}: a copy from pageable memory", _place()))
            return OnCuda(func(*args, **{**kwargs, "device": "cpu"}))
        if func in (torch.Tensor.cpu, torch.Tensor.cuda, torch.Tensor.to, torch.Tensor.type_as):
            return _moved(func, *args, **kwargs)
        if not isinstance(first, OnCuda):
            return func(*args, **kwargs)
        if func is torch.Tensor.new_tensor:
            _waits.append(Wait("new_tensor: a copy from pageable memory", _place()))
            return OnCuda(torch.tensor(args[1], dtype=kwargs.get("dtype", first.dtype)))
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(i, list | np.ndarray) for i in index):
                _waits.append(Wait("a list as index: a copy from pageable memory", _place()))
                index = tuple(OnCuda(torch.tensor(i)) if isinstance(i, list | np.ndarray) else i for i in index)
                args = (first, index, *args[2:])
        if func is torch.Tensor.tolist:
            _waits.append(Wait("tolist", _place()))
            return first.inner.tolist()
        if func is torch.Tensor.numpy or func is torch.Tensor.__array__:
            raise TypeError(f"can't convert cuda:0 device type tensor to numpy at {_place()}")
        return func(*args, **kwargs)


def _moved(func, tensor, *args, **kwargs):
    """Move and cast a tensor as `to`, `cpu` and `cuda` do."""
    always = kwargs.pop("copy", False)
    if args and isinstance(args[0], torch.Tensor):
        device, dtype = args[0].device, args[0].dtype
    elif func is torch.Tensor.to:
        device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
    else:
        device, dtype = (CPU if func is torch.Tensor.cpu else CUDA), None
    moves = device is not None and device.type != tensor.device.type
    if moves and isinstance(tensor, OnCuda):
        _waits.append(Wait("copy to the host", _place()))
        tensor = tensor.inner.detach().clone()
    elif moves:
        tensor = OnCuda(tensor.detach().clone())
    if dtype is not None and dtype != tensor.dtype:
        return tensor.type(dtype)
    return tensor.clone() if always and not moves else tensor


class _Stream:
    """A stream, or an event on it: whatever is asked for has been done already."""

    def __init__(self, *_):
        pass

    def record_event(self):
        return self

    def wait_event(self, event):
        assert isinstance(event, _Stream)

    def synchronize(self):
        pass


class _Accelerator(CPUAccelerator):
    def setup_device(self, device):
        pass


class OneDevice(SingleDeviceStrategy):
    """Lightning's strategy for the pretended device."""

    def __init__(self):
        super().__init__(device=CUDA, accelerator=_Accelerator())

    def setup_environment(self):
        pass


def _grouped(*args):
    """Group tensors for an optimizer, by the device that Python sees."""
    groups = _group(*args)
    return {(tensors[0][0].device, dtype): (tensors, places) for (_, dtype), (tensors, places) in groups.items()}


_group = torch._C._group_tensors_by_device_and_dtype


@contextmanager
def pretend_cuda() -> Iterator[list[Wait]]:
    """Have a CUDA device, and return the list of what the host has waited for so far."""
    _waits.clear()
    overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
    initialised = Trainer.__init__

    @wraps(initialised)  # whose arguments make the command's settings
    def on_cuda(self, *args, **kwargs):
        kwargs.update(strategy=OneDevice(), accelerator="auto", devices=1)
        initialised(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch, _Operators(), _Functions():
        patch.setattr(torch.cuda, "_lazy_init", lambda: None)
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
        patch.setattr(torch.cuda, "get_device_name", lambda *_: "pretended")
        patch.setattr(torch.cuda, "synchronize", lambda *_: None)
        patch.setattr(torch.cuda, "Stream", _Stream)
        patch.setattr(torch.cuda, "current_stream", _Stream)
        patch.setattr(torch.cuda, "stream", lambda _: nullcontext())
        patch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
        patch.setattr(layer, "pinned", bytearray)
        patch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
        patch.setattr(torch._C, "_group_tensors_by_device_and_dtype", _grouped)
        patch.setattr(products, "kernels_run_on", lambda _: False)
        patch.setattr(Trainer, "__init__", on_cuda)
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        try:
            yield _waits
        finally:
            torch.__future__.set_overwrite_module_params_on_conversion(overwrites)
