"""On a CPU half precision is computed in float32, where that fits into memory."""

import json
import shutil

import pytest
import torch
from transformers import ClapModel, Qwen2AudioForConditionalGeneration

from ard.activations import Extraction
from ard.audiollm import load_audiollm
from ard.audiollm.precision import available_memory, usable_device
from ard.embedding import load_clap
from ard.types import UserError


@pytest.fixture(scope="module")
def half(tiny_audiollm, tmp_path_factory):
    """The tiny model with a checkpoint in half precision."""
    folder = tmp_path_factory.mktemp("half") / "model"
    shutil.copytree(tiny_audiollm, folder)
    Qwen2AudioForConditionalGeneration.from_pretrained(tiny_audiollm).half().save_pretrained(folder)
    return str(folder)


def test_a_device_is_the_given_one_if_it_is_there(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert (usable_device(), usable_device("cpu"), usable_device("meta")) == ("cpu", "cpu", "meta")
    with pytest.raises(UserError, match="device 'tpu9' is not there: give cpu, or a GPU"):
        usable_device("tpu9")


def test_the_default_is_float32_and_what_is_asked_for_is_done(half, caplog):
    assert load_audiollm(half).model.dtype == torch.float32
    (line,) = [record.message for record in caplog.records if record.name == "ard.audiollm.precision"]
    assert line == f"model {half!r} is stored in float16 and computed in float32, which is faster on a CPU"
    assert load_audiollm(half, dtype="float16").model.dtype == torch.float16


def test_the_manifest_says_what_was_computed_in(half):
    extraction = Extraction([0], half)
    extraction.load("cpu")
    assert extraction.about["computed_in"] == "float32"
    extraction.load("meta")
    assert "computed_in" not in extraction.about  # of a dry run, which knows no weights


def test_what_does_not_fit_stays_as_it_is_and_that_is_said(half, monkeypatch, caplog):
    monkeypatch.setattr("ard.audiollm.precision.available_memory", lambda: 10_000)
    assert load_audiollm(half).model.dtype == torch.float16
    assert (
        "is computed in float16, which is slow on a CPU: float32 needs 0.0 GB more, and 0.0 GB are free" in caplog.text
    )


def test_clap_too(tiny_clap, tmp_path):
    shutil.copytree(tiny_clap, tmp_path / "clap")
    ClapModel.from_pretrained(tiny_clap).half().save_pretrained(tmp_path / "clap")
    assert json.loads((tmp_path / "clap" / "config.json").read_text(encoding="utf-8"))["dtype"] == "float16"
    assert load_clap(str(tmp_path / "clap")).model.dtype == torch.float32


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"proc/meminfo": "MemTotal: 9 kB\nMemAvailable:  7 kB\n"}, 7 * 1024),
        ({"proc/meminfo": "MemAvailable: 7 kB\n", "sys/fs/cgroup/memory.max": "max\n"}, 7 * 1024),
        (
            {
                "proc/meminfo": "MemAvailable: 7 kB\n",
                "sys/fs/cgroup/memory.max": "5000\n",
                "sys/fs/cgroup/memory.stat": "anon 1500\nfile 3000\n",
            },
            3500,
        ),
    ],
)
def test_the_memory_that_is_left_is_the_machines_or_the_containers(tmp_path, files, expected):
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    assert available_memory(tmp_path) == expected
    assert available_memory(tmp_path / "elsewhere") > 2**20
    assert available_memory() > 2**20
