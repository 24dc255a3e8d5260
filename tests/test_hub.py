"""Models of the hub: what is fetched, what is shown of it, and what is said where nothing can be had."""

import json
import socket
import time
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants, snapshot_download
from transformers import AutoFeatureExtractor, AutoModel, ClapModel, ClapProcessor, WhisperModel

from ard import console, hub
from ard.activations import Extraction
from ard.audiollm import load_audiollm
from ard.embedding import load_clap
from ard.hub import commit_of, ensure_file, ensure_models, is_cached, is_model_id, offline_if_cached
from ard.types import UserError
from tests.audiollm.families.whisper import whisper

WHISPER, CLAP = "openai/whisper-base", "laion/clap-htsat-unfused"
OTHERS = [None, "embedded", "computed:embeddings", "laion:630k-audioset-best.pt", "none"]
COPIES = ["pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "onnx/config.json"]
NO_NETWORK = (
    r"^openai/whisper-base and laion/clap-htsat-unfused \(unknown size\) cannot be fetched from http://127.0.0.1:\d+ "
    r"\({reason}\), and .*cache does not have all of it: where there is a network, run `hf download openai/"
    r"whisper-base` and `hf download laion/clap-htsat-unfused`, or try ard without one by --model embedded --clap "
    r"embedded$"
)


def content(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@pytest.fixture(scope="module")
def whisper_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whisper")
    whisper(folder)
    return folder


@pytest.fixture
def models(hub, whisper_folder, tiny_clap, tmp_path):
    """A hub with Whisper in the formats of several libraries, and with a CLAP of which there is only PyTorch's."""
    pickled = tmp_path / "pytorch_model.bin"
    torch.save(ClapModel.from_pretrained(tiny_clap).state_dict(), pickled)
    card = b"---\nlicense: apache-2.0\n---\n\n# Whisper\n"
    clap = {**content(tiny_clap), pickled.name: pickled.read_bytes()}
    del clap["model.safetensors"]
    hub.repositories |= {
        WHISPER: {**content(whisper_folder), "README.md": card, **dict.fromkeys(COPIES, b"a copy")},
        CLAP: clap,
    }
    return hub


def shown(capfd):
    return "".join(capfd.readouterr())


def fetched(model):
    return {path.name for path in Path(snapshot_download(model, local_files_only=True)).rglob("*") if path.is_file()}


def test_what_is_missing_is_shown_and_fetched_once(models, whisper_folder, capfd):
    ensure_models([WHISPER, *OTHERS, CLAP, WHISPER, str(whisper_folder)])
    assert shown(capfd).splitlines() == [
        "· fetching openai/whisper-base and laion/clap-htsat-unfused from the hub, for this time and all later ones",
        "  openai/whisper-base: 1 MB, licence: apache-2.0",
        "  laion/clap-htsat-unfused: 1 MB, licence: not stated on its card",
    ]
    assert fetched(WHISPER) == set(content(whisper_folder))
    assert fetched(CLAP) == set(models.repositories[CLAP])
    models.requests.clear()
    ensure_models([WHISPER, CLAP])
    assert models.requests == []
    assert shown(capfd) == ""


def test_the_size_is_that_of_the_files_and_progress_counts_to_it(models, monkeypatch, capfd):
    monkeypatch.setattr(console, "FIRST_LINE_S", 0.0)
    large = {"model-00001-of-00002.safetensors": bytes(11_700_000), "model-00002-of-00002.safetensors": bytes(500_000)}
    index = {"model.safetensors.index.json": json.dumps({"weight_map": dict(zip("ab", large, strict=True))}).encode()}
    files = models.repositories[WHISPER]
    del files["model.safetensors"]
    files |= large | index | {"model.fp32-00001-of-00001.safetensors": bytes(40_000_000)}
    files["README.md"] = b"---\nlicense: other\nlicense_name: llama3\n---\n"
    ensure_models([WHISPER])
    lines = shown(capfd).splitlines()
    assert lines[1] == "  openai/whisper-base: 13 MB, licence: llama3"
    assert any(line.startswith("  openai/whisper-base: ") and " of 13 MB" in line for line in lines[2:])
    assert fetched(WHISPER).isdisjoint([*COPIES, "model.fp32-00001-of-00001.safetensors"])
    assert is_cached(WHISPER)
    (Path(snapshot_download(WHISPER, local_files_only=True)) / "model-00002-of-00002.safetensors").unlink()
    assert not is_cached(WHISPER)


def test_what_was_fetched_is_loaded_without_a_network(models, whisper_folder, tiny_clap, no_network, capfd):
    ensure_models([WHISPER, CLAP])
    no_network()
    models.requests.clear()
    started = time.monotonic()
    network, clap = load_audiollm(WHISPER).model, load_clap(CLAP)
    assert time.monotonic() - started < 20  # it takes minutes where the hub is tried for every file
    assert models.requests == []
    assert "Retrying" not in shown(capfd)
    expected = WhisperModel.from_pretrained(whisper_folder).encoder.state_dict()
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in expected.items())
    torch.testing.assert_close(clap.text(["rain"]), load_clap(tiny_clap).text(["rain"]))


def test_what_describes_a_model_is_fetched_and_read_without_its_weights(models, no_network):
    ensure_models([WHISPER], weights=False)
    described = {name for name in models.repositories[WHISPER] if name.endswith(".json")}
    assert fetched(WHISPER) == described - set(COPIES)
    assert not is_cached(WHISPER)
    no_network()
    models.requests.clear()
    ensure_models([WHISPER], weights=False)
    started = time.monotonic()
    with offline_if_cached(WHISPER, weights=False):
        assert load_audiollm(WHISPER, device="meta").d_in == 16
    assert time.monotonic() - started < 10
    assert models.requests == []


def test_a_single_file_is_fetched_once(models, no_network, capfd):
    models.repositories["lukewys/laion_clap"] = {"music.pt": b"weights", "speech.pt": b"others"}
    given = {"otherwise": "give another"}
    assert ensure_file("lukewys/laion_clap", "music.pt", **given).read_bytes() == b"weights"
    assert shown(capfd).splitlines()[1:] == ["  lukewys/laion_clap: 1 MB, licence: not stated on its card"]
    with pytest.raises(
        UserError, match=r"^'lukewys/laion_clap' has no file 'x.pt' on the hub: give one of music.pt, speech.pt$"
    ):
        ensure_file("lukewys/laion_clap", "x.pt", **given)
    no_network()
    assert ensure_file("lukewys/laion_clap", "music.pt", **given).read_bytes() == b"weights"
    with pytest.raises(
        UserError,
        match=r"^lukewys/laion_clap speech.pt \(unknown size\) .* run `hf download lukewys/laion_clap speech.pt`, or "
        r"give another$",
    ):
        ensure_file("lukewys/laion_clap", "speech.pt", **given)


def test_the_commit_of_what_is_loaded_is_recorded(models, whisper_folder):
    assert commit_of(WHISPER) is None
    ensure_models([WHISPER])
    assert commit_of(WHISPER) == "0" * 40
    assert commit_of("embedded") is None
    for model, commit in ((WHISPER, "0" * 40), (str(whisper_folder), None)):
        extraction = Extraction([0], model)
        extraction.load("cpu")
        assert extraction.about["revision"] == commit


def test_weights_that_are_none_are_named(models):
    pointer = b"version https://git-lfs.github.com/spec/v1"
    for model in (WHISPER, CLAP):
        models.repositories[model].pop("model.safetensors", None)
        models.repositories[model]["pytorch_model.bin"] = pointer
    ensure_models([WHISPER, CLAP])
    with pytest.raises(UserError, match=r"model 'openai/whisper-base' cannot be loaded \("):
        load_audiollm(WHISPER)
    with pytest.raises(UserError, match=r"CLAP model 'laion/clap-htsat-unfused' cannot be loaded \("):
        load_clap(CLAP)


def test_transformers_itself_finds_what_was_fetched(models):
    ensure_models([WHISPER, CLAP])
    models.requests.clear()
    for kind, model in (
        (AutoFeatureExtractor, WHISPER),
        (AutoModel, WHISPER),
        (ClapModel, CLAP),
        (ClapProcessor, CLAP),
    ):
        kind.from_pretrained(model, local_files_only=True)
    assert not [request for request in models.requests if request.startswith("GET") and "/resolve/" in request]


def test_without_a_network_one_line_says_what_to_fetch(models, no_network, capfd):
    no_network()
    started = time.monotonic()
    with pytest.raises(UserError, match=NO_NETWORK.replace("{reason}", "Connection refused")):
        ensure_models([WHISPER, CLAP])
    assert time.monotonic() - started < 5
    assert shown(capfd) == ""


def test_a_hub_that_does_not_answer_is_not_waited_for(models, monkeypatch, capfd):
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        with pytest.raises(UserError, match=NO_NETWORK.replace("{reason}", "timed out")):
            ensure_models([WHISPER, CLAP])
    assert time.monotonic() - started < 5
    assert shown(capfd) == ""


def test_offline_mode_is_named(models, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=NO_NETWORK.replace("{reason}", "HF_HUB_OFFLINE is set")):
        ensure_models([WHISPER, CLAP])
    assert models.requests == []


def test_a_download_that_was_stopped_goes_on(models, monkeypatch):
    download = hub.hf_hub_download

    def stop(model, name, **options):
        if name.startswith("model"):
            raise KeyboardInterrupt
        return download(model, name, **options)

    monkeypatch.setattr(hub, "hf_hub_download", stop)
    with pytest.raises(KeyboardInterrupt):
        ensure_models([WHISPER])
    assert not is_cached(WHISPER)
    monkeypatch.setattr(hub, "hf_hub_download", download)
    models.requests.clear()
    ensure_models([WHISPER])
    assert is_cached(WHISPER)
    sent = [request for request in models.requests if request.startswith("GET") and "/resolve/" in request]
    assert sent == ["GET /openai/whisper-base/resolve/main/model.safetensors"]


def test_a_hub_that_fails_in_between_is_named_with_the_size(models, monkeypatch):
    download = hub.hf_hub_download

    def vanish(model, name, **options):
        models.repositories[WHISPER].pop("model.safetensors", None)
        return download(model, name, **options)

    monkeypatch.setattr(hub, "hf_hub_download", vanish)
    with pytest.raises(UserError, match=r"^openai/whisper-base \(1 MB\) cannot be fetched from .* \(it answered 404\)"):
        ensure_models([WHISPER])


def test_a_gated_model_says_where_to_ask(models):
    models.gated.add(WHISPER)
    with pytest.raises(
        UserError,
        match=r"^model 'openai/whisper-base' is given only to those who accept its terms: do so at http://127.0.0.1:\d+"
        r"/openai/whisper-base, and log in with `hf auth login`$",
    ):
        ensure_models([WHISPER])


def test_a_model_that_does_not_exist_is_named(models):
    with pytest.raises(
        UserError,
        match=r"^model 'opnai/whisper' is neither a folder here nor at http://127.0.0.1:\d+/opnai/whisper: check the "
        r"name; if it is private, log in with `hf auth login`$",
    ):
        ensure_models(["opnai/whisper", CLAP])
    assert not Path(constants.HF_HUB_CACHE).exists()


def test_a_model_without_weights_is_named(models):
    del models.repositories[CLAP]["pytorch_model.bin"]
    with pytest.raises(
        UserError, match=r"^model 'laion/clap-htsat-unfused' has neither model.safetensors nor pytorch_model.bin on the"
    ):
        ensure_models([CLAP])


@pytest.mark.parametrize(
    "name", [*OTHERS[1:], "./openai/whisper-base", "/models/whisper", "whisper", "a/b/c", "a--b/c"]
)
def test_other_names_are_not_asked_for(name):
    assert not is_model_id(name)


def test_a_folder_of_the_same_name_goes_before_the_hub(models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / WHISPER).mkdir(parents=True)
    ensure_models([WHISPER])
    assert models.requests == []
