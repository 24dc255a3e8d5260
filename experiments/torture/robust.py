"""Nothing hangs, and nothing ends in a traceback or with the wrong answer."""

import io
import json
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
from collections import Counter
from contextlib import redirect_stderr, suppress
from functools import cache, partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from safetensors.torch import load, load_file, save, save_file
from torch.utils.data import get_worker_info

from ard.activations import datamodule, read_manifest
from ard.audio import write_audio_shards
from ard.audiollm import EMBEDDED, AudioLLM, load_audiollm
from ard.audiollm.prompter import source
from ard.cli import main
from ard.presets import CONFIGS
from ard.sae import TopKSAE
from ard.sae.formats import LAYOUTS, Format, StoredSAE, read, write
from ard.types import Clip, UserError
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


GENERATION_OPTIONS: list[dict[str, Any]] = [
    {"return_dict_in_generate": True, "output_scores": True},
    {"num_return_sequences": 3, "num_beams": 3},
    {"do_sample": True, "temperature": 3.0},
    {"prompt_lookup_num_tokens": 3},
    {"assistant_early_exit": 1},
    {"penalty_alpha": 0.6, "top_k": 4},
    {"use_cache": False},
    {"stop_strings": ["a"]},
    {"max_length": 3},
    {"max_time": 1e-9},
    {"cache_implementation": "static"},
    {"guidance_scale": 3.0},
    {"watermarking_config": {"bias": 5.0}},
]
"""What a generation_config may say that has no place in the answers to a question."""


@cache
def embedded_model() -> AudioLLM:
    """Return the model that is shipped."""
    return load_audiollm()


def tone(number: int, duration_s: float = 1.0) -> Clip:
    """Return a clip of a tone."""
    time_s = np.arange(int(duration_s * 16000)) / 16000
    return Clip(f"c{number}", np.sin(2000 * (1 + number) * time_s).astype(np.float32) / 2, 16000, "t")


def refused(args: list[str]) -> str:
    """Run a command that has to end with one line and exit code 2, and return the line.

    Raises:
        AssertionError: if it ends in another way.
    """
    printed = io.StringIO()
    with redirect_stderr(printed), suppress(SystemExit):
        main(args)
    return one_line(printed.getvalue())


def one_line(printed: str) -> str:
    """Return the line that a command ended with, without its colors.

    Raises:
        AssertionError: if it did not end with one, or printed a traceback.
    """
    assert "Traceback" not in printed, printed[-400:]
    lines = [line for line in re.sub(r"\x1b\[[0-9;]*m", "", printed).splitlines() if line.startswith("ard: ")]
    assert len(lines) == 1, f"no line, or several: {printed[-400:]!r}"
    return lines[0]


def extraction(folder: Path, num_clips: int) -> list[str]:
    """Write audio shards of some clips, and return the command that extracts their activations."""
    audio = folder / "audio" / "probe"
    if not audio.is_dir():
        write_audio_shards(map(tone, range(num_clips)), audio, clips_per_shard=2)
    facts = {"out": folder, "split": "probe", "activations": folder / "activations", "layers": "[1]"}
    config = str(CONFIGS / "demo" / "extract.yaml")
    return ["extract", "--config", config, *(f"--run.{name}={value}" for name, value in facts.items())]


def extract_with_little_shared_memory(folder: Path) -> str:
    """Extract where /dev/shm has room for less than one batch."""
    args = extraction(folder, 24)
    mounted = f"mount -t tmpfs -o size=64k tmpfs /dev/shm && exec {sys.executable} -m ard " + shlex.join(args)
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        return "not tried: only root can give a process a /dev/shm of its own"
    run = subprocess.run(["unshare", "-m", "sh", "-c", mounted], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-400:]
    return f"{len(read_manifest(folder / 'activations').clip_ids)} clips extracted"


def extract_with_a_worker_killed(folder: Path) -> str:
    """Kill a worker in the middle of an extraction, as the kernel does where memory runs out; run it again."""
    args, batches, shards_read = extraction(folder, 16), datamodule._Clips._batches, count(1)

    def die(clips: Any, read: Any) -> Any:
        if get_worker_info() and next(shards_read) == 3:  # of this worker
            os.kill(os.getpid(), signal.SIGKILL)
        return batches(clips, read)

    with patch.object(datamodule._Clips, "_batches", die):
        line = refused(args)
    main(args)
    assert len(read_manifest(folder / "activations").clip_ids) == 16
    return f"{line} | the same command again: 16 clips"


def fit_refuses(folder: Path, options: list[str]) -> str:
    """Train an SAE with settings that cannot be, and return the line that says so."""
    main(extraction(folder, 4))
    facts = {"out": folder, "activations": folder / "activations", "evaluation": "null", "layer": 1}
    config = str(CONFIGS / "demo" / "fit.yaml")
    run = [f"--run.{name}={value}" for name, value in facts.items()]
    return refused(["fit", "--config", config, *run, "--trainer.logger=false", "--trainer.max_steps=2", *options])


def ask(_: Path, token: str) -> str:
    """Ask the shipped model a question that holds a special token."""
    try:
        embedded_model().generate([tone(0)], [f"what {token} is this"], max_new_tokens=2)
    except UserError as error:
        return str(error)
    raise AssertionError("it was answered")


def answer_as_plainly(folder: Path, options: dict[str, Any]) -> str:
    """Answer with options in the model's generation_config, as without them."""
    shutil.copytree(source(EMBEDDED), folder, dirs_exist_ok=True)
    path, clips, questions = folder / "generation_config.json", [tone(0), tone(1, 0.5)], ["what is this", "who"]
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **options}), encoding="utf-8")
    answers = load_audiollm(str(folder)).generate(clips, questions, max_new_tokens=5)
    assert answers == embedded_model().generate(clips, questions, max_new_tokens=5), answers
    return "answered as without"


def compute_half_precision(folder: Path) -> str:
    """Load a checkpoint in half precision on a CPU."""
    shutil.copytree(source(EMBEDDED), folder, dirs_exist_ok=True)
    path = folder / "model.safetensors"
    save_file({name: x.half() for name, x in load_file(path).items()}, path, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "float16"}), encoding="utf-8")
    computed_in = load_audiollm(str(folder)).model.dtype
    assert computed_in == torch.float32, computed_in
    return "computed in float32"


def refuse_configuration(folder: Path, layout: Format, text: str) -> str:
    """Open an SAE whose configuration is broken."""
    config, weights = whole_folder(layout, None)
    (folder / LAYOUTS[layout].config).write_text(text.replace("...", config.decode().strip()[1:]), encoding="utf-8")
    (folder / LAYOUTS[layout].weights).write_bytes(weights)
    return refused(["convert", str(folder), str(folder / "new"), "--to", "saelens"])


def refuse_weights(folder: Path, dtype: torch.dtype) -> str:
    """Open an SAE whose weights are of another type."""
    config, weights = whole_folder("saelens", None)
    (folder / "cfg.json").write_bytes(config)
    save_file({name: x.to(dtype) for name, x in load(weights).items()}, folder / "sae_weights.safetensors")
    return refused(["convert", str(folder), str(folder / "new"), "--to", "saelens"])


CONFIGURATIONS: list[tuple[str, Format, str]] = [
    ("is not JSON", "saelens", "{"),
    ("is a list", "saelens", "[1, 2]"),
    ("is empty names", "sparsify", "{}"),
    ("is nested 100,000 deep", "saelens", "[" * 100_000),
    ("has a d_in that is a word", "saelens", '{"d_in": "4", "d_sae": 12, "k": 3, "architecture": "topk"}'),
    ("has a k of 10^40", "sparsify", f'{{"d_in": 4, "num_latents": 12, "k": 1{"0" * 40}}}'),
    ("has a d_in that is a word, to be multiplied by 10^12", "sparsify", '{"d_in": "4", "expansion_factor": 1e12}'),
    ("has a list for its trainer", "dictionary_learning", '{"trainer": [1]}'),
    ("has a word for its metadata", "saelens", '{"metadata": "m"}'),
]

CASES = [
    Case("2,000 SAE folders of three formats, damaged at random", lambda _: read_damaged_folders(2000)),
    *(
        Case(f"an SAE whose configuration {what}", partial(refuse_configuration, layout=layout, text=text), quick=True)
        for what, layout, text in CONFIGURATIONS
    ),
    *(
        Case(f"an SAE with weights in {str(dtype)[6:]}", partial(refuse_weights, dtype=dtype), quick=True)
        for dtype in (torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.int32, torch.complex64)
    ),
    Case("ard extract where /dev/shm has 64 KB", extract_with_little_shared_memory),
    Case("ard extract of which a worker is killed", extract_with_a_worker_killed),
    *(
        Case(f"ard fit with {' '.join(options)}", partial(fit_refuses, options=options))
        for options in (
            ["--trainer.precision=bf16-true"],
            ["--trainer.precision=16-true"],
            ["--data.init_args.activations=nowhere"],
            ["--model.init_args.d_in=7"],
        )
    ),
    *(
        Case(f"a question with {token} in it", partial(ask, token=token))
        for token in ("<|AUDIO|>", "<|im_end|>", "<|im_start|>")
    ),
    *(
        Case(f"a generation_config with {json.dumps(options)}", partial(answer_as_plainly, options=options))
        for options in GENERATION_OPTIONS
    ),
    Case("a checkpoint in half precision on a CPU", compute_half_precision),
]
