"""The Triton kernels without a GPU: what they compute, interpreted; and what they are compiled to."""

import os
import subprocess
import sys
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

EXTRAS = str(Path(sys.prefix) / "extras")  # of `make test`; a process of its own must look there by itself
PATH = os.pathsep.join([str(Path(__file__).parents[2]), EXTRAS, os.environ.get("PYTHONPATH", "")])

pytestmark = pytest.mark.skipif(
    PathFinder.find_spec("triton", [EXTRAS, *sys.path]) is None, reason="triton is not installed: `make test` does that"
)

INTERPRETED = """
import torch
from ard.sae.functional import decode_sparse, encode_top_k
from ard.sae.products import ALL_PRODUCTS, dots, kernels_run_on, sum_rows, sum_tokens, using
from ard.types import Codes
assert kernels_run_on("cpu")
generator = torch.Generator().manual_seed(0)

def between(least, most):
    return int(torch.randint(least, most + 1, (), generator=generator))

for number in range(8):
    dtype = (torch.float32, torch.bfloat16)[number % 2]
    tokens, d_in, d_sae = between(1, 9), between(1, 150), between(1, 40)
    if number == 0:
        tokens, d_in, d_sae = 40, 1030, 2  # several slices of columns, segments longer than are gathered at once
    k = between(1, d_sae)
    x = torch.randn(tokens, d_in, generator=generator).to(dtype)
    rows = torch.randn(d_sae, d_in, generator=generator).to(dtype)
    indices = torch.stack([torch.randperm(d_sae, generator=generator)[:k] for _ in range(tokens)])
    codes = Codes(torch.randn(tokens, k, generator=generator).relu(), indices)
    for compute in (
        lambda way: sum_rows(codes, rows, way),
        lambda way: sum_tokens(codes, x, d_sae, way),
        lambda way: dots(x, indices, rows, way),
    ):
        found = compute("triton")
        for way in ("gather", "dense"):
            expected = compute(way)
            assert found.dtype == expected.dtype == torch.float32
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)

    def gradients(way, autocast):
        given = [tensor.float().clone().requires_grad_() for tensor in (x, rows.T, torch.zeros(d_sae), rows)]
        with using({ALL_PRODUCTS: way}), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            x_hat = decode_sparse(encode_top_k(*given[:3], k), given[3])
        return torch.autograd.grad((x_hat - x).pow(2).sum(), given)

    for found, expected in zip(*(gradients(way, number % 2 == 1) for way in ("triton", "gather")), strict=True):
        assert (found - expected).norm() <= (1e-2 if number % 2 else 1e-5) * expected.norm()
"""

COMPILED = """
import re, subprocess, sys
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource
from ard.sae import kernels

POINTERS = {"starts": "*i32", "ids": "*i32", "out": "*fp32"}

def report(kernel, columns, capability, dtype):
    constants = {"ROWS": kernels.ROWS, "COLUMNS": columns}
    types = {**POINTERS, **dict.fromkeys(("x", "rows", "weights"), f"*{dtype}")}
    names = kernel.arg_names
    source = ASTSource(
        kernel,
        {name: "constexpr" if name in constants else types.get(name, "i32") for name in names},
        constants,
        {(place,): [["tt.divisibility", 16]] for place, name in enumerate(names) if name in types or name == "width"},
    )
    target = GPUTarget("cuda", capability, 32)
    ptx = triton.compile(source, target=target, options={"num_warps": kernels.NUM_WARPS}).asm["ptx"]
    with open(sys.argv[1], "w") as file:
        file.write(ptx)
    arch = re.search(r"[.]target (sm_[0-9]+a?)", ptx).group(1)
    ptxas = [get_ptxas(capability).path, "-v", "--gpu-name", arch, sys.argv[1], "-o", sys.argv[1] + ".cubin"]
    said = subprocess.run(ptxas, capture_output=True, text=True, check=True).stderr
    wide = len(re.findall(r"ld[.]global[.]v4[.]b32", ptx))
    spills = re.search(r"([0-9]+) bytes spill stores, ([0-9]+) bytes spill loads", said).groups()
    print(kernel.__name__, arch, dtype, *constants.values(), kernels.NUM_WARPS, wide, *spills)

for capability in (80, 90):
    for dtype, num_bytes in (("bf16", 2), ("fp32", 4)):
        for columns in kernels.SLICES:
            report(kernels.sum_rows_kernel, columns, capability, dtype)
        report(kernels.dots_kernel, kernels.DOTS_BYTES // num_bytes, capability, dtype)
"""


def run(code, *args, **environment):
    environment = {**os.environ, "PYTHONPATH": PATH, "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, "-c", code, *args]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if "only 0-dimensional arrays can be converted" in done.stderr:
        pytest.skip("the interpreter of this Triton does not run with this NumPy")
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_interpreted_kernels_give_what_torch_gives():
    run(INTERPRETED, TRITON_INTERPRET="1")


@pytest.mark.slow
def test_compiled_kernels_load_sixteen_bytes_at_a_time_and_spill_no_register(tmp_path):
    lines = [
        line.split()
        for line in run(COMPILED, str(tmp_path / "kernel.ptx"), TRITON_CACHE_DIR=str(tmp_path)).splitlines()
    ]
    assert len(lines) == 2 * 2 * 3
    assert {line[1] for line in lines} == {"sm_80", "sm_90a"}
    for kernel, arch, dtype, rows, columns, num_warps, wide, stores, loads in lines:
        entries_of_a_thread = int(rows) * int(columns) // (32 * int(num_warps))
        assert int(wide) >= entries_of_a_thread * (2 if dtype == "bf16" else 4) // 16, (kernel, arch, dtype, columns)
        assert (int(stores), int(loads)) == (0, 0), (kernel, arch, dtype, columns)
