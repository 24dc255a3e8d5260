import json

import huggingface_hub
import pytest
import torch
import yaml

from ard.results import Figure
from ard.sae import JumpReLUSAE, TopKSAE, load_dictionary
from ard.sae.formats import StoredSAE, read, write
from ard.sae.hub import model_card, push
from ard.types import UserError

METRICS = {"ms": Figure(9.31, 9.1, 9.5, 200, "", "higher"), "fvu": 0.25}


def stored(seed=0, **metadata):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"W_enc": (4, 8), "b_enc": (8,), "W_dec": (8, 4), "b_dec": (4,)}
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return StoredSAE(2, True, tensors, metadata)


@pytest.mark.slow
def test_what_is_pushed_is_pulled(hub, tmp_path):
    sae = stored(model_name="Qwen/Qwen2-Audio-7B-Instruct", hook_name="language_model.model.layers.26")
    write(sae, tmp_path / "sae", "saelens")
    assert "/me/my-sae/commit/" in push(tmp_path / "sae", "me/my-sae", metrics=METRICS)
    assert sorted(hub.repositories["me/my-sae"]) == ["README.md", "cfg.json", "sae_weights.safetensors"]
    pulled = read("me/my-sae")
    assert all(torch.equal(pulled.tensors[name], tensor) for name, tensor in sae.tensors.items())
    assert pulled.metadata["model_name"] == "Qwen/Qwen2-Audio-7B-Instruct"
    assert all(torch.equal(read("me/my-sae", "main").tensors[n], t) for n, t in sae.tensors.items())


@pytest.mark.slow
def test_a_repository_keeps_several_saes_in_folders(hub, tmp_path):
    for layer in (5, 26):
        write(stored(layer), tmp_path / str(layer), "saelens")
        push(tmp_path / str(layer), "me/saes", inner=f"layer-{layer}/e8/", metrics=METRICS)
    assert "layer-26/e8/README.md" in hub.repositories["me/saes"]
    assert torch.equal(read("me/saes/layer-26/e8").tensors["W_enc"], stored(26).tensors["W_enc"])
    with pytest.raises(UserError, match=r"'me/saes/layer-26' holds no SAE .*: try its folders: e8"):
        read("me/saes/layer-26")


def test_other_libraries_saes_are_pulled_too(hub, tmp_path):
    write(stored(), tmp_path / "sae", "sparsify")
    files = {f"layers.3/{path.name}": path.read_bytes() for path in (tmp_path / "sae").iterdir()}
    hub.repositories["them/theirs"] = {**files, "other.bin": b"not wanted"}
    assert torch.equal(read("them/theirs/layers.3").tensors["W_enc"], stored().tensors["W_enc"])
    assert not list((tmp_path / "cache").rglob("other.bin"))


@pytest.mark.slow
def test_sae_lens_pulls_what_is_pushed(hub, peers, tmp_path):
    write(stored(), tmp_path / "sae", "saelens")
    push(tmp_path / "sae", "me/saes", inner="layer-3")
    theirs = peers.sae_lens.SAE.from_pretrained("me/saes", "layer-3")
    assert torch.equal(theirs.W_dec, stored().tensors["W_dec"])


@pytest.mark.slow
def test_what_the_hub_does_not_have_is_said_so(hub, tmp_path):
    with pytest.raises(UserError, match=r"not a folder here, and cannot be fetched from the hub \(.*404"):
        read("me/nothing")


@pytest.mark.slow
def test_what_the_hub_does_not_take_is_said_so(hub, tmp_path, monkeypatch):
    write(stored(), tmp_path / "sae", "saelens")
    with pytest.raises(UserError, match=r"the hub did not take 'not a name' \(.*: check the name, and log in"):
        push(tmp_path / "sae", "not a name")
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"the hub did not take 'me/sae'"):
        push(tmp_path / "sae", "me/sae")


def test_the_card_carries_the_metrics(tmp_path):
    write(stored(model_name="some/model"), tmp_path, "saelens")
    config = json.loads((tmp_path / "cfg.json").read_text(encoding="utf-8"))
    card = model_card(config, "me/saes/layer-26", {**METRICS, "none": float("nan")}, "AudioSet_SL")
    assert "| ms | 9.31 [9.1, 9.5], n = 200, higher is better |" in card
    assert "| fvu | 0.25, lower is better |" in card
    assert 'load_dictionary("me/saes/layer-26")' in card
    assert 'SAE.load_from_disk(snapshot_download("me/saes") + "/layer-26")' in card
    header = huggingface_hub.ModelCard(card).data
    assert {result.metric_type: result.metric_value for result in header.eval_results} == {"ms": 9.31, "fvu": 0.25}
    assert header.base_model == "some/model"
    assert header.eval_results[0].dataset_name == "AudioSet_SL"
    assert yaml.safe_load(card.split("---")[1])["library_name"] == "ard"


def test_a_card_without_metrics_says_so(tmp_path):
    write(stored(model_name="embedded"), tmp_path, "saelens")
    card = model_card(json.loads((tmp_path / "cfg.json").read_text(encoding="utf-8")), "me/sae")
    assert "None were given." in card
    assert huggingface_hub.ModelCard(card).data.base_model is None
    assert 'SAE.load_from_disk(snapshot_download("me/sae"))' in card


def test_a_card_carries_the_metrics_of_the_training_if_no_others_are_given(tmp_path):
    write(stored(metrics={"fvu": 0.125}, metrics_on="held-out clips"), tmp_path, "saelens")
    config = json.loads((tmp_path / "cfg.json").read_text(encoding="utf-8"))
    assert "| on held-out clips | |\n| --- | --- |\n| fvu | 0.125, lower is better |" in model_card(config, "me/sae")
    assert "0.125" not in model_card(config, "me/sae", METRICS, "AudioSet_SL")


@pytest.mark.slow
@pytest.mark.parametrize("sae", [JumpReLUSAE(4, 8), TopKSAE(4, 8, k=2, threshold=0.5)], ids=["jumprelu", "batch top-k"])
def test_an_sae_whose_configuration_has_no_k_has_a_card_too(hub, sae):
    sae.push_to_hub("me/sae")
    card = hub.repositories["me/sae"]["README.md"].decode()
    assert "| architecture | jumprelu |" in card
    assert ("| k | 2 |" in card) == isinstance(sae, TopKSAE)
    assert torch.equal(load_dictionary("me/sae").W_enc, sae.W_enc)


def test_an_sae_pushes_and_pulls_itself(hub):
    sae = TopKSAE(4, 8, k=2, pre_bias=True, generator=torch.Generator().manual_seed(0))
    sae.push_to_hub("me/sae", metrics=METRICS, dataset="AudioSet_SL")
    assert "| ms | 9.31" in hub.repositories["me/sae"]["README.md"].decode()
    assert torch.equal(TopKSAE.from_pretrained("me/sae").W_enc, sae.W_enc)
