"""Worker processes that prepare batches, and send them through memory that no mount limits.

torch sends tensors through /dev/shm, which holds 64 MB in a Docker container. If a batch does not fit, the thread that
sends it fails silently, and the trainer waits for the batch forever. A memfd uses the same kind of memory and is as
fast, but only the machine's memory limits it.
"""

import io
import mmap
import os
import pickle
import signal
from collections.abc import Callable, Sequence
from itertools import accumulate
from multiprocessing.reduction import DupFd
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

ALIGNMENT = 64  # bytes, of tensors in memory
Item = TypeVar("Item")


def prepared(batches: IterableDataset[Any], num_workers: int) -> DataLoader[Any]:
    """Return batches as they are, prepared ahead by so many processes; by this one, one by one, if there are none.

    The order is that in which the workers, in turn, give theirs: each iterates over its own copy of ``batches``.
    """
    return DataLoader(
        batches,
        batch_size=None,
        collate_fn=sent,
        num_workers=num_workers,
        worker_init_fn=_leave_ctrl_c_to_the_trainer,
    )


def share(items: Sequence[Item]) -> Sequence[Item]:
    """Return this worker's share of what there is to prepare: every n-th; all of it if this is no worker."""
    worker = get_worker_info()
    return items if worker is None else items[worker.id :: worker.num_workers]


def _leave_ctrl_c_to_the_trainer(_: int) -> None:
    """Ignore Ctrl-C in a worker, which the terminal also sends it: a step that waits for it can then finish."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def sent(batch: Any) -> Any:
    """Prepare a batch for sending if this is a worker (a DataLoader's ``collate_fn``); it arrives unchanged."""
    if get_worker_info() is None or not hasattr(os, "memfd_create"):  # Linux only
        return batch
    return _Sent(batch)


class _Sent:
    """A batch ready to be sent: all of it is already in memory, so that sending cannot fail."""

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
    """Return the batch; its tensors share the memory in which it was sent."""
    try:
        descriptor = file.detach()
    except (OSError, EOFError) as error:  # its sender is gone, though the system may not have reported its end yet
        raise RuntimeError("DataLoader worker ended before its batch was received") from error
    try:
        memory = memoryview(mmap.mmap(descriptor, 0))
    finally:
        os.close(descriptor)
    return pickle.loads(content, buffers=[memory[start:end] for start, end in spans])


class _Pickler(pickle.Pickler):
    """Keep the bytes of tensors outside the pickle."""

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return NotImplemented
        flat = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
        return _tensor, (pickle.PickleBuffer(flat.data), value.dtype, tuple(value.shape))


def _tensor(memory: memoryview, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    return torch.frombuffer(memory, dtype=dtype).view(shape) if len(memory) else torch.empty(shape, dtype=dtype)
