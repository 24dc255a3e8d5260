import json
import os
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from ard.sae import JumpReLUSAE, TopKSAE
from ard.sae.formats import StoredSAE, convert, read, write
from ard.types import UserError
from experiments.torture.robust import read_damaged_folders

FORMATS = ["saelens", "sparsify", "dictionary_learning"]
D_IN, D_SAE, K = 6, 24, 4


def tokens(dtype=torch.float32):
    return torch.randn(50, D_IN, generator=torch.Generator().manual_seed(1), dtype=dtype) + 0.5


def random_tensors(dtype=torch.float32):
    """Weights whose decoder rows have many lengths, so that who forgets or doubles a norm is found out."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"W_enc": (D_IN, D_SAE), "b_enc": (D_SAE,), "W_dec": (D_SAE, D_IN), "b_dec": (D_IN,)}
    return {name: torch.randn(shape, generator=generator, dtype=dtype) for name, shape in shapes.items()}


def stored(dtype=torch.float32, pre_bias=True, bias=True, threshold=None):
    tensors = random_tensors(dtype)
    if not bias:
        tensors["b_dec"].zero_()
    return StoredSAE(K, pre_bias, tensors, {"model_name": "some/model", "hook_name": "layers.3"}, threshold)


def run_ours(folder, x):
    """Return dense codes and x_hat as computed by what was read from a folder."""
    read_back = read(folder)
    options = {"k": read_back.k, "pre_bias": read_back.pre_bias, "threshold": read_back.threshold}
    sae = TopKSAE(read_back.d_in, read_back.d_sae, **options).to(x.dtype)
    sae.load_state_dict(read_back.tensors, strict=False)  # the threshold is no tensor there
    codes = sae.encode(x)
    return torch.zeros(len(x), sae.d_sae, dtype=x.dtype).scatter(1, codes.indices, codes.values), sae.decode(codes)


def run_theirs(peers, folder, to, x):
    """Return dense codes and x_hat as computed by the library that a folder was written for."""
    if to == "saelens":
        theirs = peers.sae_lens.SAE.load_from_disk(folder)
        return theirs.encode(x), theirs(x)
    if to == "dictionary_learning":
        trainer = json.loads((folder / "config.json").read_text(encoding="utf-8"))["trainer"]
        # what load_dictionary does, which cannot be imported beside transformers 5
        trainers = peers.dictionary_learning
        classes = {"AutoEncoderTopK": trainers.top_k.AutoEncoderTopK, "BatchTopKSAE": trainers.BatchTopKSAE}
        theirs = classes[trainer["dict_class"]].from_pretrained(folder / "ae.pt", k=trainer["k"])
        return theirs.encode(x), theirs(x)
    return run_sparsify(peers.sparsify.SparseCoder.load_from_disk(folder), x)


def run_sparsify(theirs, x):
    values, indices, _ = theirs.encode(x)
    x_hat = theirs.decode(values, indices)
    if not theirs.cfg.multi_topk:  # else its forward pass returns what 4 k features give, which only the loss is about
        assert torch.equal(theirs(x).sae_out, x_hat)
    return torch.zeros(len(x), theirs.num_latents, dtype=x.dtype).scatter(1, indices, values), x_hat


def assert_same(ours, theirs):
    tolerance = 1e-12 if ours[0].dtype == torch.float64 else 1e-5
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("pre_bias", "bias"), [(True, True), (False, False), (False, True)])
@pytest.mark.parametrize("to", FORMATS)
def test_each_library_opens_its_folder_and_computes_the_same(peers, tmp_path, to, pre_bias, bias, dtype):
    if to == "dictionary_learning" and dtype == torch.float64:
        dtype = torch.float32  # it loads everything into float32
    write(stored(dtype, pre_bias, bias), tmp_path / "sae", to)
    x = tokens(dtype)
    theirs = run_theirs(peers, tmp_path / "sae", to, x)
    assert_same(run_ours(tmp_path / "sae", x), theirs)
    tensors = random_tensors(dtype)
    b_dec = tensors["b_dec"] * bias
    top = ((x - b_dec * pre_bias) @ tensors["W_enc"] + tensors["b_enc"]).topk(K)
    dense = torch.zeros(len(x), D_SAE, dtype=dtype).scatter(1, top.indices, top.values.relu())
    assert_same((dense, dense @ tensors["W_dec"] + b_dec), theirs)


@pytest.mark.parametrize("pre_bias", [True, False])
@pytest.mark.parametrize("to", ["saelens", "dictionary_learning"])
def test_a_threshold_is_their_batch_top_k(peers, tmp_path, to, pre_bias):
    write(stored(pre_bias=pre_bias, threshold=2.5), tmp_path / "sae", to)
    ours = run_ours(tmp_path / "sae", tokens())
    assert_same(ours, run_theirs(peers, tmp_path / "sae", to, tokens()))
    assert len((ours[0] > 0).sum(dim=1).unique()) > 3  # so it is no TopK


def test_what_save_pretrained_writes_opens_in_sae_lens(peers, tmp_path):
    sae = TopKSAE(D_IN, D_SAE, k=K, pre_bias=True, generator=torch.Generator().manual_seed(0))
    sae.b_dec.data.normal_(generator=torch.Generator().manual_seed(1))
    sae.save_pretrained(tmp_path)
    assert_same((sae(tokens()),), (peers.sae_lens.SAE.load_from_disk(tmp_path)(tokens()),))


@pytest.mark.parametrize("apply_b_dec_to_input", [True, False])
@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_what_sae_lens_saved_is_read(peers, tmp_path, training, rescale, apply_b_dec_to_input):
    lens = peers.sae_lens
    options = {"k": K, "rescale_acts_by_decoder_norm": rescale, "apply_b_dec_to_input": apply_b_dec_to_input}
    config = (lens.TopKTrainingSAEConfig if training else lens.TopKSAEConfig)(D_IN, D_SAE, **options)
    theirs = (lens.TopKTrainingSAE if training else lens.TopKSAE)(config)
    theirs.load_state_dict(random_tensors())
    theirs.save_model(tmp_path / "sae")
    assert_same(run_ours(tmp_path / "sae", tokens()), (theirs.encode(tokens()), theirs(tokens())))


def test_what_sae_lens_saved_of_batch_top_k_is_one_once_it_says_k_and_computes_the_same_before(peers, tmp_path):
    theirs = peers.sae_lens.BatchTopKTrainingSAE(peers.sae_lens.BatchTopKTrainingSAEConfig(D_IN, D_SAE, k=K))
    theirs.load_state_dict({**random_tensors(), "topk_threshold": torch.tensor(2.0)})
    theirs.save_inference_model(tmp_path / "sae")
    before = JumpReLUSAE.from_pretrained(tmp_path / "sae")
    assert_same((before(tokens()),), (peers.sae_lens.SAE.load_from_disk(tmp_path / "sae")(tokens()),))
    edit(tmp_path / "sae" / "cfg.json", k=K)
    assert_same(run_ours(tmp_path / "sae", tokens()), run_theirs(peers, tmp_path / "sae", "saelens", tokens()))


def write_legacy(folder, **options):
    """Write an SAE as SAELens did before 6.0."""
    folder.mkdir()
    save_file(random_tensors(), folder / "sae_weights.safetensors")
    config = {"d_in": D_IN, "d_sae": D_SAE, "activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}}
    config |= {"dtype": "float32", "hook_name": "blocks.3.hook_resid_post", "model_name": "gpt2", **options}
    (folder / "cfg.json").write_text(json.dumps(config), encoding="utf-8")


@pytest.mark.parametrize("options", [{}, {"sae_lens_version": "5.10.0"}, {"normalize_activations": False}])
def test_what_sae_lens_saved_before_6_is_read(peers, tmp_path, options):
    write_legacy(tmp_path / "sae", **options)
    assert_same(run_ours(tmp_path / "sae", tokens()), run_theirs(peers, tmp_path / "sae", "saelens", tokens()))
    assert read(tmp_path / "sae").metadata["model_name"] == "gpt2"


SPARSIFY_OPTIONS = [
    {"num_latents": D_SAE},
    {"num_latents": 0, "expansion_factor": D_SAE // D_IN},
    {"num_latents": D_SAE, "normalize_decoder": False, "multi_topk": True, "expansion_factor": 99},
]


@pytest.mark.parametrize("options", SPARSIFY_OPTIONS)
def test_what_sparsify_saved_is_read(peers, tmp_path, options):
    theirs = peers.sparsify.SparseCoder(D_IN, peers.sparsify.SparseCoderConfig(k=K, **options))
    tensors = random_tensors()
    theirs.load_state_dict(
        {
            "encoder.weight": tensors["W_enc"].T,
            "encoder.bias": tensors["b_enc"],
            "W_dec": tensors["W_dec"],
            "b_dec": tensors["b_dec"],
        }
    )
    theirs.save_to_disk(tmp_path / "sae")
    assert_same(run_ours(tmp_path / "sae", tokens()), run_sparsify(theirs, tokens()))


def save_dictionary_learning(peers, folder, trainer="TopKTrainer", threshold=0.25, **changes):
    """Save what dictionary_learning's trainSAE saves, by its last lines (the function itself imports nnsight)."""
    trainer = getattr(peers.dictionary_learning, trainer)(
        100, D_IN, D_SAE, K, 3, "some/model", warmup_steps=10, device="cpu"
    )
    tensors = random_tensors()
    trainer.ae.encoder.weight.data, trainer.ae.encoder.bias.data = tensors["W_enc"].T, tensors["b_enc"]
    trainer.ae.decoder.weight.data, trainer.ae.b_dec.data = tensors["W_dec"].T, tensors["b_dec"]
    trainer.ae.threshold.fill_(threshold)
    folder.mkdir()
    (folder / "config.json").write_text(
        json.dumps({"trainer": {**trainer.config, **changes}, "buffer": {"ctx_len": 128}}), encoding="utf-8"
    )
    torch.save({name: tensor.cpu() for name, tensor in trainer.ae.state_dict().items()}, folder / "ae.pt")
    return trainer.ae


@pytest.mark.parametrize("trainer", [("TopKTrainer", 0.25), ("BatchTopKTrainer", 2.0), ("BatchTopKTrainer", -1.0)])
def test_what_dictionary_learning_saved_is_read(peers, tmp_path, trainer):
    theirs = save_dictionary_learning(peers, tmp_path / "sae", *trainer)
    assert_same(run_ours(tmp_path / "sae", tokens()), (theirs.encode(tokens()), theirs(tokens())))
    assert read(tmp_path / "sae").metadata["model_name"] == "some/model"
    assert read(tmp_path / "sae").metadata["layer"] == 3


def test_an_older_dictionary_learning_file_without_k_and_threshold_is_read(peers, tmp_path):
    theirs = save_dictionary_learning(peers, tmp_path / "sae")
    state = torch.load(tmp_path / "sae" / "ae.pt", weights_only=True)
    torch.save({name: state[name] for name in state if name not in ("k", "threshold")}, tmp_path / "sae" / "ae.pt")
    assert_same(run_ours(tmp_path / "sae", tokens()), (theirs.encode(tokens()), theirs(tokens())))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("first", FORMATS)
@pytest.mark.parametrize("second", FORMATS)
@pytest.mark.parametrize("threshold", [None, 1.25])
def test_there_and_back_nothing_is_lost(tmp_path, first, second, threshold, dtype):
    if threshold and "sparsify" in (first, second):
        with pytest.raises(UserError, match=r"threshold is 1.25, and sparsify has no BatchTopK"):
            write(stored(dtype, threshold=threshold), tmp_path, "sparsify")
        return
    sae = stored(dtype, threshold=threshold)
    write(sae, tmp_path / "0", first)
    convert(tmp_path / "0", tmp_path / "1", second)
    convert(str(tmp_path / "1"), tmp_path / "2", first)
    again = read(tmp_path / "2")
    assert again.k == sae.k
    assert (again.pre_bias, again.threshold) == (sae.pre_bias, sae.threshold)
    for name, tensor in sae.tensors.items():
        assert torch.equal(again.tensors[name], tensor)
        assert again.tensors[name].dtype == dtype
    assert again.metadata.items() >= sae.metadata.items()


def test_training_facts_come_back_when_the_sae_does(peers, tmp_path):
    save_dictionary_learning(peers, tmp_path / "0")
    convert(tmp_path / "0", tmp_path / "1", "saelens")
    convert(tmp_path / "1", tmp_path / "2", "dictionary_learning")
    before, after = (json.loads((tmp_path / name / "config.json").read_text(encoding="utf-8")) for name in ("0", "2"))
    assert {name: after[name] for name in before} == before
    states = [torch.load(tmp_path / name / "ae.pt", weights_only=True) for name in ("0", "2")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])  # the threshold too


def edit(path, **changes):
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(
        json.dumps({name: value for name, value in {**config, **changes}.items() if value != "drop"}), encoding="utf-8"
    )


REFUSED = [
    ("saelens", {"architecture": "gated"}, "architecture is 'gated', only 'topk' or 'jumprelu' can be read"),
    ("saelens", {"architecture": "standard"}, "architecture is 'standard', only 'topk' or 'jumprelu' can be read"),
    ("saelens", {"architecture": "jumprelu"}, "threshold is missing: save the SAE again"),
    ("saelens", {"architecture": "drop"}, "architecture is None"),
    ("saelens", {"normalize_activations": "layer_norm"}, "normalize_activations is 'layer_norm', only 'none'"),
    ("saelens", {"normalize_activations": "expected_average_only_in"}, "fold it into the weights with sae_lens"),
    ("saelens", {"reshape_activations": "hook_z"}, "reshape_activations is 'hook_z'"),
    ("saelens", {"finetuning_scaling_factor": True}, "finetuning_scaling_factor is True"),
    ("saelens", {"k": "drop"}, "its configuration gives None for k"),
    ("saelens", {"k": D_SAE + 1}, "k is 25, and there are 24 features"),
    ("saelens", {"d_sae": 30}, r"W_dec is \[24, 6\], its configuration says \[30, 6\]|W_enc is \[6, 24\]"),
    ("saelens", {"k": True}, "its configuration gives True for k: write the number into it"),
    ("saelens", {"k": 10**40}, r"gives 1000+ for k"),
    ("saelens", {"d_in": "6"}, "its configuration gives '6' for d_in: write the number into it"),
    ("saelens", {"metadata": ["m"]}, r"metadata is \['m'\], not a mapping: correct its configuration"),
    ("saelens", {"apply_b_dec_to_input": "false"}, "apply_b_dec_to_input is 'false': write true or false"),
    ("sparsify", {"d_in": "6", "num_latents": 0, "expansion_factor": 10**12}, "gives '6' for d_in"),
    ("sparsify", {"metadata": "m"}, "metadata is 'm', not a mapping"),
    ("sparsify", {"activation": "groupmax"}, "activation is 'groupmax', only 'topk' can be read"),
    ("sparsify", {"signed": True}, "signed is True"),
    ("sparsify", {"skip_connection": True}, "skip_connection is True, only False can be read"),
    ("sparsify", {"transcode": True}, "transcode is True"),
    ("sparsify", {"num_latents": 0, "expansion_factor": 5}, r"W_enc is \[6, 24\], its configuration says \[6, 30\]"),
    ("sparsify", {"d_in": "drop"}, "its configuration gives None for d_in"),
]


@pytest.mark.parametrize(("layout", "changes", "message"), REFUSED)
def test_an_option_that_cannot_be_said_is_refused_by_name(tmp_path, layout, changes, message):
    write(stored(), tmp_path, layout)
    edit(tmp_path / "cfg.json", **changes)
    with pytest.raises(UserError, match=message):
        read(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"dict_class": "GatedAutoEncoder"},
            "'GatedAutoEncoder', only 'AutoEncoderTopK' or 'BatchTopKSAE' can be read",
        ),
        ({"dict_class": None}, "dict_class is None"),
        ({"k": 3}, "k is 3 in config.json and 4 in ae.pt"),
        ({"activation_dim": None}, "gives None for d_in"),
    ],
)
def test_another_dictionary_is_refused(peers, tmp_path, changes, message):
    save_dictionary_learning(peers, tmp_path / "sae", **changes)
    with pytest.raises(UserError, match=message):
        read(tmp_path / "sae")


def test_the_options_of_sae_lens_before_6_are_refused_too(tmp_path):
    write_legacy(tmp_path / "normalized", normalize_activations="layer_norm")
    write_legacy(tmp_path / "heads", hook_name="blocks.3.attn.hook_z")
    write_legacy(tmp_path / "relu", activation_fn_str="relu")
    for name, message in {"normalized": "normalize_activations", "heads": "hook_z", "relu": "'standard'"}.items():
        with pytest.raises(UserError, match=message):
            read(tmp_path / name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {**t, "W_dec": t["W_dec"].T}, r"W_dec is \[6, 24\], and seems to be transposed, its .* \[24, 6\]"),
        (lambda t: {**t, "W_skip": torch.zeros(D_IN, D_IN)}, "'W_skip' is a tensor that no TopK-SAE has"),
        (lambda t: {name: t[name] for name in t if name != "b_dec"}, "b_dec is missing"),
    ],
)
@pytest.mark.parametrize(
    ("layout", "weights"), [("saelens", "sae_weights.safetensors"), ("sparsify", "sae.safetensors")]
)
def test_other_tensors_than_a_topk_saes_are_refused(tmp_path, layout, weights, change, message):
    write(stored(), tmp_path, layout)
    save_file({name: t.contiguous() for name, t in change(load_file(tmp_path / weights)).items()}, tmp_path / weights)
    with pytest.raises(UserError, match=message):
        read(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8, torch.bool, torch.complex64], ids=str)
@pytest.mark.parametrize("layout", FORMATS)
def test_weights_that_are_no_numbers_to_compute_with_are_refused(tmp_path, layout, dtype):
    write(stored(), tmp_path, layout)
    path = next(path for path in tmp_path.iterdir() if path.suffix != ".json")
    tensors = torch.load(path, weights_only=True) if layout == "dictionary_learning" else load_file(path)
    tensors["b_dec"] = tensors["b_dec"].to(dtype)
    (torch.save if layout == "dictionary_learning" else save_file)(tensors, path)
    with pytest.raises(UserError, match=f"b_dec is {str(dtype)[6:]}: save the SAE again in float32, float16 or"):
        read(tmp_path)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    sae = stored()
    sae.tensors["W_dec"][3, 2] = torch.nan
    write(sae, tmp_path, "sparsify")
    with pytest.raises(UserError, match="W_dec holds NaN or infinity: train the SAE again"):
        read(tmp_path)


@pytest.mark.parametrize(
    "claim",
    [lambda: torch.zeros(1).expand(2**30, 2**20), lambda: torch.zeros(6, device="meta"), torch.eye(6).to_sparse],
)
def test_a_tensor_that_claims_more_than_the_file_holds_is_refused(tmp_path, claim):
    write(stored(), tmp_path, "dictionary_learning")
    state = torch.load(tmp_path / "ae.pt", weights_only=True)
    torch.save({**state, "b_dec": claim()}, tmp_path / "ae.pt")
    with pytest.raises(UserError, match="holds more than the SAE's tensors"):
        read(tmp_path)


@pytest.mark.slow
def test_a_folder_that_is_damaged_at_random_is_read_right_or_refused_in_one_line():
    assert read_damaged_folders(100)


class Harm:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    "save", [torch.save, lambda harmful, path: path.write_bytes(pickle.dumps(harmful, protocol=0))]
)
def test_a_file_that_would_run_code_is_refused_and_does_not_run(tmp_path, save):
    harm, folder = tmp_path / "harm", tmp_path / "sae"
    write(stored(), folder, "dictionary_learning")
    state = torch.load(folder / "ae.pt", weights_only=True)
    for harmful in (Harm(harm), {**state, "extra": Harm(harm)}):
        save(harmful, folder / "ae.pt")
        with pytest.raises(UserError, match=r"ae.pt' is broken or would run code when read"):
            read(folder)
    assert not harm.exists()
    torch.save(Harm(harm), folder / "ae.pt")
    torch.load(folder / "ae.pt", weights_only=False)
    assert harm.exists()  # so it was no empty threat


def test_a_pickle_does_not_pass_for_safetensors(tmp_path):
    for layout, weights in {"saelens": "sae_weights.safetensors", "sparsify": "sae.safetensors"}.items():
        write(stored(), tmp_path / layout, layout)
        torch.save({"W_enc": Harm(tmp_path / "harm")}, tmp_path / layout / weights)
        with pytest.raises(UserError, match=r"is not a safetensors file .*: only safetensors files are read"):
            read(tmp_path / layout)
    assert not (tmp_path / "harm").exists()


def test_a_training_checkpoint_in_the_place_of_weights_is_refused(tmp_path):
    write(stored(), tmp_path, "dictionary_learning")
    torch.save({"step": 3, "ae": {"b_dec": torch.zeros(6)}}, tmp_path / "ae.pt")
    with pytest.raises(UserError, match="holds more than the SAE's tensors: save the SAE's state_dict"):
        read(tmp_path)


def test_a_broken_configuration_is_called_that(tmp_path):
    write(stored(), tmp_path, "saelens")
    broken = {"{": "is not JSON", "[1]": r"holds \[1\], not a configuration", "[" * 10**5: "is not JSON"}
    for text, message in broken.items():
        (tmp_path / "cfg.json").write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=message):
            read(tmp_path)


def test_where_there_is_no_sae_one_is_told_where_to_look(tmp_path):
    with pytest.raises(UserError, match=r"holds no SAE .*ae.pt for dictionary_learning.*: train one with"):
        read(tmp_path)
    write(stored(), tmp_path / "layers.3", "sparsify")
    write(stored(), tmp_path / "trainer_0", "dictionary_learning")
    with pytest.raises(UserError, match=r"holds no SAE .*: try its folders: layers.3, trainer_0"):
        read(tmp_path)


def test_a_folder_in_use_is_not_written_into(tmp_path):
    write(stored(), tmp_path / "sae", "sparsify")
    before = sorted(path.name for path in (tmp_path / "sae").iterdir())
    for taken in (tmp_path / "sae", tmp_path / "sae" / "cfg.json"):
        with pytest.raises(UserError, match="is in use: name a new folder"):
            convert(tmp_path / "sae", taken, "saelens")
    assert sorted(path.name for path in (tmp_path / "sae").iterdir()) == before == ["cfg.json", "sae.safetensors"]


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_from_pretrained_opens_every_format_in_float32_or_wider(tmp_path, layout, dtype):
    write(stored(dtype), tmp_path, layout)
    sae = TopKSAE.from_pretrained(tmp_path)
    assert sae.W_enc.dtype == torch.promote_types(dtype, torch.float32)
    assert torch.equal(sae.W_enc, random_tensors(dtype)["W_enc"].to(sae.W_enc.dtype))
