"""How the batches of a DataLoader's workers reach the trainer: through memory that no mount limits.

torch sends tensors through /dev/shm, which in a Docker container holds 64 MB. Where a batch does not fit, the thread
that sends it fails without a word to anyone, and the trainer waits for the batch without end. A memfd lies in the same
kind of memory, is as fast, and is limited by the machine's memory alone.
"""

import io
import mmap
import os
import pickle
from collections.abc import Callable, Sequence
from itertools import accumulate
from multiprocessing.reduction import DupFd
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

ALIGNMENT = 64  # of tensors in memory, in bytes


def sent(batch: Any) -> Any:
    """Make a batch ready to be sent if this is a worker (``collate_fn`` of a DataLoader); it arrives as it was."""
    if get_worker_info() is None or not hasattr(os, "memfd_create"):  # which is Linux'
        return batch
    return _Sent(batch)


class _Sent:
    """A batch on its way: all of it is in memory already, so that nothing is left that could fail while it is sent."""

    def __init__(self, batch: Any) -> None:
        content, buffers = io.BytesIO(), list[pickle.PickleBuffer]()
        _Pickler(content, protocol=5, buffer_callback=buffers.append).dump(batch)
        self.content = content.getvalue()
        parts = [buffer.raw() for buffer in buffers]
        starts = [0, *accumulate(-(-len(part) // ALIGNMENT) * ALIGNMENT for part in parts)]
        self.spans = [(start, start + len(part)) for start, part in zip(starts, parts, strict=False)]
        file = os.memfd_create("batch")
        try:
            os.ftruncate(file, max(starts[-1], 1))
            with mmap.mmap(file, 0) as memory:
                for (start, end), part in zip(self.spans, parts, strict=True):
                    memory[start:end] = part
            self.file = DupFd(file)
        finally:
            os.close(file)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _received, (self.content, self.spans, self.file)


def _received(content: bytes, spans: Sequence[tuple[int, int]], file: Any) -> Any:
    """Return the batch, whose tensors are the memory that it was sent in."""
    descriptor = file.detach()
    try:
        memory = memoryview(mmap.mmap(descriptor, 0))
    finally:
        os.close(descriptor)
    return pickle.loads(content, buffers=[memory[start:end] for start, end in spans])


class _Pickler(pickle.Pickler):
    """Put the bytes of tensors beside the pickle."""

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return NotImplemented
        flat = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
        return _tensor, (pickle.PickleBuffer(flat.data), value.dtype, tuple(value.shape))


def _tensor(memory: memoryview, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    return torch.frombuffer(memory, dtype=dtype).view(shape) if len(memory) else torch.empty(shape, dtype=dtype)
