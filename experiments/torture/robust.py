"""Nothing hangs, and nothing ends in a traceback or with the wrong answer."""

import io
import json
import resource
from collections import Counter
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from ard.sae import TopKSAE
from ard.sae.formats import LAYOUTS, Format, StoredSAE, read, write
from ard.types import UserError
from experiments.torture.case import Case

D_IN, D_SAE, K = 4, 12, 3
MOST_MEMORY_KB = 300_000  # that reading a folder of some kilobytes may take
DTYPES = ["F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F4", "I64", "I32", "I8", "U8", "BOOL", "C64"]
CASTS = [torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.int32, torch.bool, torch.complex64, torch.float16]
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 30)
    | st.sampled_from([10**6, 2**31, 2**63, 10**40, 10**4000])
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["topk", "jumprelu", "none", "6.0.0", "5", "4", "AutoEncoderTopK", "BatchTopKSAE", "hook_z"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@cache
def whole_folder(layout: Format, threshold: float | None) -> tuple[bytes, bytes]:
    """Return the configuration and the weights of an SAE that nothing is wrong with."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"W_enc": (D_IN, D_SAE), "b_enc": (D_SAE,), "W_dec": (D_SAE, D_IN), "b_dec": (D_IN,)}
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    with TemporaryDirectory() as folder:
        write(StoredSAE(K, True, tensors, {"model_name": "m"}, threshold), Path(folder), layout)
        names = LAYOUTS[layout].config, LAYOUTS[layout].weights
        config, weights = ((Path(folder) / name).read_bytes() for name in names)
    return config, weights


@st.composite
def damaged_folders(draw: st.DrawFn) -> tuple[Format, bytes, bytes]:
    """Draw an SAE's folder with something wrong in its configuration, its weights, or both."""
    layout: Format = draw(st.sampled_from(list(LAYOUTS)))
    threshold = draw(st.sampled_from([None, 0.5])) if layout != "sparsify" else None
    config, weights = whole_folder(layout, threshold)
    where = draw(st.sampled_from(["configuration", "weights", "both"]))
    if where != "weights":
        config = draw(st.one_of(edited(json.loads(config)), VALUES.map(json.dumps).map(str.encode), bytes_of(config)))
    if where != "configuration":
        weights = draw(
            st.one_of(bytes_of(weights), other_tensors(weights), *([headers(weights)] if is_safe(weights) else []))
        )
    return layout, config, weights


@st.composite
def edited(draw: st.DrawFn, config: dict[str, Any]) -> bytes:
    """Draw a configuration of which some values are others, or are gone, at any depth."""
    for _ in range(draw(st.integers(1, 3))):
        part = draw(st.sampled_from([config, *(value for value in config.values() if isinstance(value, dict))]))
        more = ["metadata", "k", "activation_fn_kwargs", "sae_lens_version", "dictionary_learning", "sparsify"]
        name = draw(st.sampled_from([*part, *more]) | st.text(max_size=5))
        if draw(st.booleans()):
            part[name] = draw(VALUES)
        else:
            part.pop(name, None)
    return json.dumps(config).encode()


@st.composite
def bytes_of(draw: st.DrawFn, content: bytes) -> bytes:
    """Draw a file with a few bytes that are others, or cut short, or with something behind its end."""
    changed = bytearray(content)
    for place, byte in draw(st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), max_size=4)):
        changed[place] = byte
    return bytes(changed[: draw(st.integers(0, len(content)))]) if draw(st.booleans()) else bytes(changed) + b"x"


@st.composite
def headers(draw: st.DrawFn, content: bytes) -> bytes:
    """Draw a safetensors file whose header says something else of its tensors."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    tensor = header[draw(st.sampled_from([name for name in header if name != "__metadata__"]))]
    match draw(st.sampled_from(["dtype", "shape", "data_offsets"])):
        case "dtype":
            tensor["dtype"] = draw(st.sampled_from(DTYPES))
        case name:
            tensor[name] = draw(st.lists(st.sampled_from([0, 1, 3, 4, 12, 2**20, 2**40, 2**63]), max_size=3))
    encoded = json.dumps(header).encode()
    return len(encoded).to_bytes(8, "little") + encoded + content[8 + length :]


@st.composite
def other_tensors(draw: st.DrawFn, content: bytes) -> bytes:
    """Draw a whole file whose tensors are of another precision, not finite, strided, or of other names."""
    safe = is_safe(content)
    tensors = load(content) if safe else torch.load(io.BytesIO(content), weights_only=True)
    names = list(tensors)
    for name in draw(st.lists(st.sampled_from(names), min_size=1, unique=True)):
        tensor = tensors.pop(name)
        match draw(st.sampled_from(["cast", "nan", "huge", "renamed", "expanded", "sparse"])):
            case "cast":
                tensors[name] = tensor.float().to(draw(st.sampled_from(CASTS)))
            case "nan":
                tensors[name] = torch.full_like(tensor.float(), draw(st.sampled_from([torch.nan, torch.inf])))
            case "huge":
                tensors[name] = torch.full_like(tensor.float(), 3e38)
            case "renamed":
                tensors[draw(st.text(max_size=6))] = tensor
            case "expanded" if not safe:
                tensors[name] = torch.zeros(1).expand(2**20, 2**20)
            case "sparse" if not safe and tensor.is_floating_point():
                tensors[name] = tensor.to_sparse()
    if safe:
        return save({name: tensor.contiguous() for name, tensor in tensors.items()})
    file = io.BytesIO()
    torch.save(tensors, file)
    return file.getvalue()


def is_safe(weights: bytes) -> bool:
    """Return whether these are safetensors, and not a zip."""
    return not weights.startswith(b"PK")


def read_or_refuse(layout: Format, config: bytes, weights: bytes) -> str:
    """Open a folder: what comes is an SAE that works and can be written again, or a UserError of one short line.

    Raises:
        AssertionError: if neither comes, or it takes a lot of memory.
    """
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with TemporaryDirectory() as name:
        folder = Path(name) / "sae"
        folder.mkdir()
        (folder / LAYOUTS[layout].config).write_bytes(config)
        (folder / LAYOUTS[layout].weights).write_bytes(weights)
        try:
            stored = read(folder)
            sae = TopKSAE.from_pretrained(folder)
            verdict = "read"
        except UserError as error:
            line = str(error)
            assert line.isprintable(), f"not one line: {line!r}"
            assert len(line) < 1000, f"{len(line)} characters: {line[:100]}"
            verdict = "refused"
        if verdict == "read":
            check_contract(sae)
            for to in LAYOUTS if stored.threshold is None else ("saelens", "dictionary_learning"):
                write(stored, Path(name) / to, to)
    taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert taken < MOST_MEMORY_KB, f"{taken} KB were taken"
    return verdict


@torch.no_grad()
def check_contract(sae: TopKSAE) -> None:
    """Look at whether an SAE has weights that fit one another and encodes and decodes a token."""
    d_in, d_sae = sae.d_in, sae.d_sae
    assert 1 <= sae.k <= d_sae
    shapes = {"W_enc": (d_in, d_sae), "b_enc": (d_sae,), "W_dec": (d_sae, d_in), "b_dec": (d_in,)}
    for name, weights in sae.named_parameters():
        assert tuple(weights.shape) == shapes[name]
        assert weights.dtype in (torch.float32, torch.float64)
        assert weights.isfinite().all()
    codes = sae.encode(torch.ones(1, d_in, dtype=sae.W_enc.dtype))
    assert codes.values.shape == codes.indices.shape
    assert codes.values.shape[1] == sae.k or sae.threshold is not None
    assert sae.decode(codes).shape == (1, d_in)


def read_damaged_folders(num_cases: int) -> str:
    """Open so many damaged folders, and say how many were read and how many refused."""
    verdicts: Counter[str] = Counter()

    @settings(
        max_examples=num_cases,
        database=None,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],  # the first that fails is small enough
        suppress_health_check=list(HealthCheck),
    )
    @given(damaged_folders())
    def opened(damaged: tuple[Format, bytes, bytes]) -> None:
        verdicts[read_or_refuse(*damaged)] += 1

    opened()
    return f"{verdicts['read']} read as SAEs that work, {verdicts['refused']} refused in one line"


CASES = [Case("2,000 SAE folders of three formats, damaged at random", lambda _: read_damaged_folders(2000))]
