"""GPUs and their data sheets."""

from typing import NamedTuple


class Gpu(NamedTuple):
    """Dense peaks in TFLOP/s, memory in GB (1e9 bytes) and its bandwidth in GB/s."""

    name: str
    bf16_tflops: float
    tf32_tflops: float
    fp32_tflops: float
    memory_gb: float
    bandwidth_gb_s: float

    def peak(self, arithmetic: str) -> float:
        """Return the FLOP/s of an arithmetic: ``float32``, ``tf32``, or one of two bytes."""
        tflops = {"float32": self.fp32_tflops, "tf32": self.tf32_tflops}.get(arithmetic, self.bf16_tflops)
        return tflops * 1e12


# Data sheets of H100 SXM5, H200 SXM, A100 SXM4 80 GB and L40S (the tensor cores' bf16 and TF32 without sparsity, fp32
# without tensor cores), and the Ada whitepaper for the RTX 4090 (bf16 with fp32 accumulation).
_SHEETS = (
    Gpu("H100", 989, 495, 67, 80, 3350),
    Gpu("H200", 989, 495, 67, 141, 4800),
    Gpu("A100", 312, 156, 19.5, 80, 2039),
    Gpu("L40S", 362, 183, 91.6, 48, 864),
    Gpu("RTX4090", 165, 82.6, 82.6, 24, 1008),
)
GPUS = {gpu.name: gpu for gpu in _SHEETS}
