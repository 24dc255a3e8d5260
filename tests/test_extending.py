import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import soundfile
import torch
from safetensors.torch import load_file

from ard.audio import SyntheticCorpus
from ard.cli import main
from ard.presets import CONFIGS
from ard.results import Result
from ard.sae import Dictionary

PAGE = Path("docs/extending.md").read_text(encoding="utf-8")


def block(marker):
    (text,) = re.findall(rf"<!-- {marker} -->\n```[a-z]*\n(.*?)```", PAGE, re.DOTALL)
    return text


@pytest.fixture(scope="module")
def extracted(tmp_path_factory):
    """A folder from which the page's command can be given: the configurations, and a run of a few clips."""
    folder = tmp_path_factory.mktemp("beside")
    shutil.copytree(CONFIGS, folder / "configs")
    out = folder / "runs" / "demo"
    for split, activations in (("probe", "activations"), ("eval", "activations-eval")):
        main(["shards", "synthetic", "--split", split, "--num_clips", "8", "--out", str(out / "audio" / split)])
        facts = [
            f"--run.out={out}",
            "--run.layers=[3]",
            f"--run.split={split}",
            f"--run.activations={out / activations}",
        ]
        main(["extract", "--config", str(CONFIGS / "demo" / "extract.yaml"), *facts])
    return folder


@pytest.fixture
def beside(extracted, monkeypatch):
    """The folder, with the page's own module in it, seen as ``PYTHONPATH=.`` has it seen."""
    (extracted / "fixed_basis.py").write_text(block("dictionary"))
    monkeypatch.chdir(extracted)
    monkeypatch.setattr(sys, "path", [str(extracted), *sys.path])
    yield extracted
    sys.modules.pop("fixed_basis", None)


def test_a_dictionary_of_ones_own_is_scored_and_steered_without_a_change_to_the_package(beside):
    path, command = block("commands").splitlines()
    assert path == "export PYTHONPATH=."
    main(shlex.split(command)[1:])
    cell = beside / "runs" / "demo" / "layer-3" / "fixed"
    (row,) = Result.load(cell / "monosemanticity.json").rows
    assert (row.method, row.layer, row.expansion) == ("Fixed basis", 3, 2)
    found = load_file(cell / "monosemanticity.safetensors")
    assert {"ard/m", "mean/m", "coverage/m", "random/0/m"} <= found.keys()  # it has the baselines that an SAE has
    clip = next(iter(SyntheticCorpus("docs", 1, speech_share=1.0)))
    soundfile.write("voice.wav", clip.waveform, clip.sample_rate_hz)
    said = {}
    exec(block("steering"), said)
    assert said["answers"] != said["model"].generate(said["clips"], [said["question"]])
    x = torch.randn(20, 128)
    torch.testing.assert_close(said["dictionary"](x), x)
    torch.testing.assert_close(said["dictionary"].directions(), said["dictionary"].basis)


def test_the_page_names_all_that_a_dictionary_has():
    own = {name for name in vars(Dictionary) if not name.startswith("_")} - {"forward"}
    assert own == set(re.findall(r"^\| `(\w+)", PAGE, re.MULTILINE))
