"""Read, write and convert the SAE folders of SAELens, sparsify and dictionary_learning.

With their options at plain values, all three compute z = relu(TopK((x - b_dec) W_enc + b_enc)) and
x_hat = z W_dec + b_dec; they differ in names and transposes. A BatchTopK-SAE, which keeps what is above a single
threshold, is SAELens' ``jumprelu`` and dictionary_learning's ``BatchTopKSAE``; sparsify has no such SAE. A JumpReLU-SAE
has one threshold per feature and no k; it is read and written in SAELens' format only. An option that these equations
can express is folded into the weights; any other is refused by name. Nothing that is read here can run code.
"""

import math
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from ard.files import claim, in_use
from ard.sae.checks import PRECISIONS, check, count, flag, mapping, one_number, refuse_unless, shown
from ard.sae.files import load_safetensors, load_state_dict, read_config, save_pickle, save_tensors, write_config
from ard.sae.hub import fetch
from ard.types import UserError

Format = Literal["saelens", "sparsify", "dictionary_learning"]
SAELENS_VERSION = "6.54.12"  # whose layout is written; without a version SAELens assumes one before 6.0


class StoredSAE(NamedTuple):
    """An SAE as stored in a file, whatever the format.

    ``tensors`` has SAELens' names and layout: W_enc [d_in, d_sae], b_enc [d_sae], W_dec [d_sae, d_in], b_dec [d_in].
    ``pre_bias`` says whether the encoder reads x - b_dec; otherwise it reads x, and Eq. 1 has a b_dec of 0.
    ``metadata`` holds everything else, under SAELens' keys (model_name, hook_name). The configuration that the SAE came
    with is kept there under its format's name, so that it can be written back. ``threshold`` is BatchTopK's, whose k is
    the average per token. A JumpReLU-SAE has no k; its thresholds [d_sae] are the tensor ``threshold``.
    """

    k: int | None
    pre_bias: bool
    tensors: dict[str, Tensor]
    metadata: dict[str, Any]
    threshold: float | None = None

    @property
    def architecture(self) -> str:
        """Which kind of SAE it is: ``topk``, BatchTopK included, or ``jumprelu``."""
        return "jumprelu" if "threshold" in self.tensors else "topk"

    @property
    def d_in(self) -> int:
        """Width of the residual stream."""
        return self.tensors["W_enc"].shape[0]

    @property
    def d_sae(self) -> int:
        """Number of features."""
        return self.tensors["W_enc"].shape[1]


def convert(src: str | Path, dst: Path, to: Format) -> None:
    """Convert the SAE ``src``, in a folder or on the hub, to another library's format in the new folder ``dst``.

    Raises:
        UserError: if ``dst`` is in use, or ``src`` cannot be read (:func:`read`).
    """
    sae = read(src)
    with claim(dst, refuse=_refuse_used):
        write(sae, dst, to)


def _refuse_used(dst: Path) -> None:
    """Refuse a folder that is not empty."""
    if in_use(dst) or (dst.exists() and not dst.is_dir()):
        raise UserError(f"{str(dst)!r} is in use: name a new folder to write the SAE into")


def read(source: str | Path, revision: str | None = None) -> StoredSAE:
    """Read an SAE in any of the formats, recognised by its files.

    Args:
        source: a folder; as a string also ``user/repository`` or ``user/repository/folder`` on the hub.
        revision: branch, tag or commit of the hub repository.

    Raises:
        UserError: if there is no SAE, it computes something else, or a file is broken or would run code.
    """
    folder = fetch(source, [name for layout in LAYOUTS.values() for name in (layout.config, layout.weights)], revision)
    for layout in LAYOUTS.values():
        if (folder / layout.config).is_file() and (folder / layout.weights).is_file():
            stored = layout.read(folder)
            _refuse_not_finite(folder, stored)
            return stored
    expected = "; ".join(f"{layout.config} and {layout.weights} for {name}" for name, layout in LAYOUTS.items())
    inner = {path.parent.name for layout in LAYOUTS.values() for path in folder.glob(f"*/{layout.config}")}
    hint = f"try its folders: {', '.join(sorted(inner))}" if inner else "train one with `lightning fit`"
    raise UserError(f"{str(source)!r} holds no SAE ({expected}): {hint}")


def write(sae: StoredSAE, folder: Path, to: Format) -> None:
    """Write an SAE in one of the formats; the configuration is written last.

    Raises:
        UserError: if the format cannot hold it.
    """
    if sae.architecture == "jumprelu" and to != "saelens":
        raise UserError(f"a JumpReLU-SAE, with a threshold a feature, is written as 'saelens' only, not as {to!r}")
    folder.mkdir(parents=True, exist_ok=True)
    LAYOUTS[to].write(sae, folder)


def read_saelens(folder: Path) -> StoredSAE:
    """Read ``cfg.json`` and ``sae_weights.safetensors``, as written by SAELens 6 or older."""
    config = _modern(folder, read_config(folder / "cfg.json"))
    unfolded = "fold it into the weights with sae_lens and save again"
    refuse_unless(
        folder,
        config,
        architecture=("topk", "jumprelu", "other SAEs compute something else"),
        normalize_activations=("none", unfolded),
        reshape_activations=("none", "there are no heads in a residual stream"),
        finetuning_scaling_factor=(False, unfolded),
    )
    tensors, metadata = load_safetensors(folder / "sae_weights.safetensors"), _metadata(folder, config)
    threshold = None
    if config["architecture"] == "jumprelu" and not _is_batch_top_k(config, tensors):
        check(folder, tensors, config.get("d_sae"), config.get("d_in"), config.get("d_sae"), threshold=True)
        return StoredSAE(None, bool(config.get("apply_b_dec_to_input", True)), _alike(tensors), metadata)
    if config["architecture"] == "jumprelu":
        config.setdefault("k", metadata.pop("k", None))
        threshold = one_number(folder, "threshold", tensors.pop("threshold", torch.empty(0)))
    k = check(folder, tensors, config.get("k"), config.get("d_in"), config.get("d_sae"))
    if flag(folder, config, "rescale_acts_by_decoder_norm", default=False):
        # TopK ranks activations times the norm of their decoder row. Rows of norm 1, with encoder and bias times that
        # norm, give the same ranking.
        norms = tensors["W_dec"].double().norm(dim=1).clamp_min(1e-8)
        _fold(tensors, "W_enc", tensors["W_enc"].double() * norms)
        _fold(tensors, "b_enc", tensors["b_enc"].double() * norms)
        _fold(tensors, "W_dec", tensors["W_dec"].double() / norms[:, None])
    pre_bias = flag(folder, config, "apply_b_dec_to_input", default=True)
    return StoredSAE(k, pre_bias, _alike(tensors), metadata, threshold)


def write_saelens(sae: StoredSAE, folder: Path) -> None:
    """Write a folder that ``sae_lens.SAE.load_from_disk`` can open."""
    tensors = dict(sae.tensors)
    metadata = {**sae.metadata, "sae_lens_version": SAELENS_VERSION, "ard_version": version("ard-audio")}
    config = {
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "dtype": str(sae.tensors["W_dec"].dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": sae.pre_bias,
        "normalize_activations": "none",
        "reshape_activations": "none",
    }
    if sae.architecture == "jumprelu":
        config |= {"architecture": "jumprelu", "metadata": metadata}
    elif sae.threshold is None:
        config |= {"architecture": "topk", "k": sae.k, "rescale_acts_by_decoder_norm": False, "metadata": metadata}
    else:
        config |= {"architecture": "jumprelu", "metadata": {**metadata, "k": sae.k}}
        tensors["threshold"] = torch.full_like(tensors["b_enc"], sae.threshold)
    save_tensors(tensors, folder / "sae_weights.safetensors", save_file)
    write_config(config, folder / "cfg.json")


def read_sparsify(folder: Path) -> StoredSAE:
    """Read ``cfg.json`` and ``sae.safetensors``; a ``num_latents`` of 0 means d_in times ``expansion_factor``."""
    config = read_config(folder / "cfg.json")
    refuse_unless(
        folder,
        config,
        activation=("topk", "other activations compute something else"),
        signed=(False, "an SAE here has no negative activations"),
        skip_connection=(False, "an SAE here has no linear skip connection"),
        transcode=(False, "a transcoder reconstructs the output of another module"),
    )
    tensors = _renamed(load_safetensors(folder / "sae.safetensors"), SPARSIFY_NAMES)
    d_in, d_sae = count(folder, "d_in", config.get("d_in")), config.get("num_latents")
    if d_sae in (None, 0):
        d_sae = d_in * count(folder, "expansion_factor", config.get("expansion_factor", 32))
    k = check(folder, tensors, config.get("k"), d_in, d_sae)
    metadata = _metadata(folder, config)
    config.pop("metadata", None)
    return StoredSAE(k, True, _alike(tensors), {**metadata, "sparsify": config})


def write_sparsify(sae: StoredSAE, folder: Path) -> None:
    """Write a folder that ``sparsify.Dictionary.load_from_disk`` can open; sparsify ignores ``metadata``."""
    if sae.threshold is not None:
        raise UserError(f"threshold is {sae.threshold:g}, and sparsify has no BatchTopK: choose another format")
    config = {
        "multi_topk": False,
        **sae.metadata.get("sparsify", {}),
        "activation": "topk",
        "expansion_factor": max(1, sae.d_sae // sae.d_in),
        "num_latents": sae.d_sae,
        "normalize_decoder": bool(((sae.tensors["W_dec"].float().norm(dim=1) - 1).abs() < 0.01).all()),
        "k": sae.k,
        "skip_connection": False,
        "transcode": False,
        "d_in": sae.d_in,
        "metadata": {name: value for name, value in sae.metadata.items() if name != "sparsify"},
    }
    tensors = _renamed(_reading_centred(sae), {ours: theirs for theirs, ours in SPARSIFY_NAMES.items()})
    save_tensors(tensors, folder / "sae.safetensors", save_file)
    write_config(config, folder / "cfg.json")


def read_dictionary_learning(folder: Path) -> StoredSAE:
    """Read ``config.json`` and ``ae.pt`` of an AutoEncoderTopK or BatchTopKSAE; of ``ae.pt`` only the tensors."""
    config = read_config(folder / "config.json")
    trainer = {"dict_class": None, **mapping(folder, "trainer", config.get("trainer"))}
    refuse_unless(
        folder, trainer, dict_class=("AutoEncoderTopK", "BatchTopKSAE", "other dictionaries compute something else")
    )
    state = load_state_dict(folder / "ae.pt")
    threshold = one_number(folder, "threshold", state.pop("threshold", torch.tensor(-1.0)))
    k = int(one_number(folder, "k", state.pop("k"))) if "k" in state else trainer.get("k")
    if trainer.get("k", k) != k:
        both = f"{shown(trainer['k'])} in config.json and {k} in ae.pt"
        raise UserError(f"{str(folder)!r}: k is {both}: correct config.json")
    tensors = _renamed(state, DICTIONARY_LEARNING_NAMES)
    k = check(folder, tensors, k, trainer.get("activation_dim"), trainer.get("dict_size"))
    facts = {ours: trainer.get(theirs) for theirs, ours in DICTIONARY_LEARNING_FACTS.items()}
    metadata = {name: fact for name, fact in facts.items() if fact is not None} | _metadata(folder, config)
    config.pop("metadata", None)
    if trainer["dict_class"] == "BatchTopKSAE":  # -1: never set, everything positive passes
        return StoredSAE(k, True, _alike(tensors), {**metadata, "dictionary_learning": config}, max(threshold, 0.0))
    metadata["dictionary_learning"] = {**config, "threshold": threshold}
    return StoredSAE(k, True, _alike(tensors), metadata)


def write_dictionary_learning(sae: StoredSAE, folder: Path) -> None:
    """Write a folder that dictionary_learning's ``load_dictionary`` can open; it always computes in float32."""
    original = sae.metadata.get("dictionary_learning", {})
    name, trainer = ("AutoEncoderTopK", "TopK") if sae.threshold is None else ("BatchTopKSAE", "BatchTopK")
    threshold = original.get("threshold", -1.0) if sae.threshold is None else sae.threshold
    config = {
        "buffer": original.get("buffer", {}),
        "trainer": {
            "trainer_class": f"{trainer}Trainer",
            "wandb_name": name,
            **{theirs: sae.metadata.get(ours) for theirs, ours in DICTIONARY_LEARNING_FACTS.items()},
            **original.get("trainer", {}),
            "dict_class": name,
            "activation_dim": sae.d_in,
            "dict_size": sae.d_sae,
            "k": sae.k,
        },
        "metadata": {name: value for name, value in sae.metadata.items() if name != "dictionary_learning"},
    }
    state = _renamed(_reading_centred(sae), {ours: theirs for theirs, ours in DICTIONARY_LEARNING_NAMES.items()})
    state |= {"k": torch.tensor(sae.k, dtype=torch.int), "threshold": torch.tensor(threshold)}
    save_tensors(state, folder / "ae.pt", save_pickle)
    write_config(config, folder / "config.json")


class Layout(NamedTuple):
    """A format: the names of its two files, and how they are read and written."""

    config: str
    weights: str
    read: Callable[[Path], StoredSAE]
    write: Callable[[StoredSAE, Path], None]


LAYOUTS: dict[Format, Layout] = {
    "saelens": Layout("cfg.json", "sae_weights.safetensors", read_saelens, write_saelens),
    "sparsify": Layout("cfg.json", "sae.safetensors", read_sparsify, write_sparsify),
    "dictionary_learning": Layout("config.json", "ae.pt", read_dictionary_learning, write_dictionary_learning),
}
# The weights named here are stored transposed, as torch.nn.Linear does.
SPARSIFY_NAMES = {"encoder.weight": "W_enc", "encoder.bias": "b_enc"}
DICTIONARY_LEARNING_NAMES = {**SPARSIFY_NAMES, "decoder.weight": "W_dec"}
DICTIONARY_LEARNING_FACTS = {"lm_name": "model_name", "submodule_name": "hook_name", "layer": "layer"}


def _modern(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Translate a configuration from before SAELens 6.0 to that of 6.0, as SAELens itself does."""
    metadata = _metadata(folder, config)
    major = str(config.get("sae_lens_version") or metadata.get("sae_lens_version") or 0).partition(".")[0]
    if major.isdigit() and int(major) >= 6:
        return {"architecture": None, **config}
    legacy = {"architecture": "standard", **config}
    if config.get("activation_fn_str", config.get("activation_fn")) == "topk":
        options = mapping(folder, "activation_fn_kwargs", config.get("activation_fn_kwargs"))
        legacy |= {"architecture": "topk", "k": options.get("k")}
    if config.get("normalize_activations") in (None, False):
        legacy["normalize_activations"] = "none"
    if "hook_z" in str(config.get("hook_name")):
        legacy.setdefault("reshape_activations", "hook_z")
    facts = ("model_name", "hook_name", "hook_layer", "dataset_path", "context_size", "prepend_bos")
    return {**legacy, "metadata": {name: config[name] for name in facts if name in config}}


def _metadata(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata of a configuration, which may hold that of other formats under their names."""
    metadata = mapping(folder, "metadata", config.get("metadata"))
    for name in LAYOUTS.keys() & metadata.keys():
        metadata[name] = mapping(folder, name, metadata[name])
        if "trainer" in metadata[name]:
            metadata[name]["trainer"] = mapping(folder, "trainer", metadata[name]["trainer"])
        if not isinstance(threshold := metadata[name].get("threshold", 0.0), float):
            raise UserError(f"{str(folder)!r}: threshold is {shown(threshold)}, not a float: correct it")
    return metadata


def _refuse_not_finite(folder: Path, sae: StoredSAE) -> None:
    for name, tensor in sae.tensors.items():
        if not all(map(math.isfinite, tensor.aminmax())):  # aminmax passes NaN on
            raise UserError(f"{str(folder)!r}: {name} holds NaN or infinity: train the SAE again, or get it again")


def _is_batch_top_k(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bool:
    """Return whether a ``jumprelu`` of SAELens is a BatchTopK-SAE: it has a k, and one threshold for all features."""
    k = config.get("k", (config.get("metadata") or {}).get("k"))
    threshold = tensors.get("threshold", torch.empty(0))
    return k is not None and threshold.dtype in PRECISIONS and len(threshold.unique()) == 1


def _renamed(tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Rename tensors between libraries, and transpose the weights among them."""
    turned = {name: tensor.T if name in names and tensor.ndim == 2 else tensor for name, tensor in tensors.items()}
    return {names.get(name, name): tensor for name, tensor in turned.items()}


def _reading_centred(sae: StoredSAE) -> dict[str, Tensor]:
    """Return the tensors of an equal SAE whose encoder reads x - b_dec, as the other two libraries always do."""
    tensors = dict(sae.tensors)
    if not sae.pre_bias and tensors["b_dec"].any():
        # x W_enc + b_enc = (x - b_dec) W_enc + (b_enc + b_dec W_enc)
        _fold(tensors, "b_enc", tensors["b_enc"].double() + tensors["b_dec"].double() @ tensors["W_enc"].double())
    return _alike(tensors)


def _fold(tensors: dict[str, Tensor], name: str, folded: Tensor) -> None:
    """Replace a tensor by the one with an option folded in, in its own dtype or at least float32."""
    tensors[name] = folded.to(torch.promote_types(tensors[name].dtype, torch.float32))


def _alike(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give all tensors the widest dtype among them, and make them contiguous."""
    dtype = tensors["b_dec"].dtype
    for tensor in tensors.values():
        dtype = torch.promote_types(dtype, tensor.dtype)
    return {name: tensor.to(dtype).contiguous() for name, tensor in tensors.items()}
