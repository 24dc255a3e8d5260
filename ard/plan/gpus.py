"""GPUs and their data sheets."""

from typing import NamedTuple


class Gpu(NamedTuple):
    """Dense peaks in TFLOP/s, memory in GB (1e9 bytes) and its bandwidth in GB/s."""

    name: str
    bf16_tflops: float
    fp32_tflops: float
    memory_gb: float
    bandwidth_gb_s: float

    def hours(self, flops: int, traffic_bytes: int, precision: str) -> float:
        """Return FLOPs / (peak of the precision) + memory traffic / bandwidth."""
        tflops = self.fp32_tflops if precision == "float32" else self.bf16_tflops
        return (flops / (tflops * 1e12) + traffic_bytes / (self.bandwidth_gb_s * 1e9)) / 3600


# Data sheets of H100 SXM5, H200 SXM, A100 SXM4 80 GB and L40S (the tensor cores' bf16 without sparsity, fp32 without
# tensor cores), and the Ada whitepaper for the RTX 4090 (bf16 with fp32 accumulation).
_SHEETS = (
    Gpu("H100", 989, 67, 80, 3350),
    Gpu("H200", 989, 67, 141, 4800),
    Gpu("A100", 312, 19.5, 80, 2039),
    Gpu("L40S", 362, 91.6, 48, 864),
    Gpu("RTX4090", 165, 82.6, 24, 1008),
)
GPUS = {gpu.name: gpu for gpu in _SHEETS}
