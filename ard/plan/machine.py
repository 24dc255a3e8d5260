"""The machine that a plan is for: what its GPU, its cores and its disk get done.

What a core needs for a clip was measured by `python -m experiments.bench preparing` and is in docs/bench.md; what share
of its data sheet a GPU reaches, by `make bench-gpu` on an H200 (docs/bench-gpu.md).
"""

from math import gcd
from typing import NamedTuple

import numpy as np

from ard.plan.cost import PerClip
from ard.plan.gpus import Gpu

PRODUCTS = 0.7
"""Share of the peak FLOP/s that the large products of an SAE reach."""
STREAMED = 0.75
"""Share of the memory's bandwidth that reading and writing in order reaches. Rows that are gathered reach all of it,
since the kernels keep slices of them in the L2 cache."""
TOP_K_READS = {2: 18, 4: 12}
"""How often TopK reads the pre-activations, by their bytes each: 4 and 6 times by its algorithm, a radix select, and so
many by its time."""
LAYER_S = 0.85e-3
"""Seconds in which Python launches one layer of a step of an answer, an estimate: a GPU that is faster waits for it."""

ENCODE_S, DECODE_S = 15e-9, 14e-9  # FLAC, a sample
RESAMPLE_S = 0.4e-9  # a product of a sample and a tap of the filter
MEL_S = 0.25e-3  # a second of the model's window, which is filled up with silence
PROMPT_S = 1e-3  # a clip: its tokens, its place in a batch
CLAP_S = 10e-3  # a window of ten seconds
MIX_S = 0.2  # a GB of activations: to read, check and send to the GPU (docs/bench-gpu.md)
PROBE_S = 1.6  # likewise, of whole clips, which are widened to float32
WRITE_GB_S = 0.76  # of activation shards, by a thread a layer
LOCAL_GB_S = 3.0  # an NVMe disk in the machine


class Machine(NamedTuple):
    """One GPU, the cores beside it, and the storage of the run's folder in GB/s.

    ``utilisation`` is the share of the peak FLOP/s that the layers of models reach.
    """

    gpu: Gpu
    cores: int
    disk_gb_s: float
    utilisation: float

    def layers_s(self, flops: int | float, precision: str) -> float:
        """Return the seconds of a model's layers."""
        return flops / (self.gpu.peak(precision) * self.utilisation)

    def products_s(self, flops: int | float, arithmetic: str) -> float:
        """Return the seconds of an SAE's dense products."""
        return flops / (self.gpu.peak(arithmetic) * PRODUCTS)

    def streamed_s(self, num_bytes: int | float) -> float:
        """Return the seconds in which the GPU's memory is read or written in order."""
        return num_bytes / (self.gpu.bandwidth_gb_s * 1e9 * STREAMED)

    def gathered_s(self, num_bytes: int | float) -> float:
        """Return the seconds in which rows are gathered from the GPU's memory."""
        return num_bytes / (self.gpu.bandwidth_gb_s * 1e9)


def resampling_s(num_samples: PerClip, from_hz: PerClip, to_hz: int) -> float:
    """Return the seconds of a core to bring clips to another rate by :func:`ard.audio.resample`.

    Its filter has 20 taps for each sample of the lower rate, and passes over those that meet inserted zeros.
    """
    seconds = 0.0
    for rate_hz in np.unique(from_hz):
        shared = gcd(int(rate_hz), to_hz)
        up, down = to_hz // shared, int(rate_hz) // shared
        if up != down:
            taps = 20 * max(up, down) / up
            seconds += RESAMPLE_S * taps * float(num_samples[from_hz == rate_hz].sum()) * up / down
    return seconds
