"""SAEs on the Hugging Face hub: fetch them, and push them with a model card."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, EvalResult, HfApi, ModelCardData, snapshot_download

from ard.results import Figure
from ard.sae.metric import BETTER
from ard.types import UserError

HUB = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)+")
WANDB = "wandb:"  # before the name of an artifact in W&B


def fetch(source: str | Path, files: Sequence[str], revision: str | None = None) -> Path:
    """Return the folder ``source``; a string that names no local folder is fetched from the hub, or from W&B.

    Args:
        source: a folder; as a string also ``user/repository`` or ``user/repository/folder``, or an artifact in W&B as
            ``wandb:entity/project/name:version``.
        files: names of the files to download.
        revision: branch, tag or commit.

    Raises:
        UserError: if the hub or W&B does not provide it.
    """
    if isinstance(source, str) and source.startswith(WANDB):
        return _artifact(source)
    if isinstance(source, Path) or Path(source).exists() or not HUB.fullmatch(source):
        return Path(source)
    user, repository, *inner = source.split("/")
    prefix = "".join(f"{part}/" for part in inner)
    patterns = [f"{prefix}{name}" for name in files] + [f"{prefix}*/{name}" for name in files if name.endswith(".json")]
    try:
        snapshot = snapshot_download(f"{user}/{repository}", revision=revision, allow_patterns=patterns)
    except Exception as error:  # depends on the client's HTTP library
        raise UserError(
            f"{source!r} is not a folder here, and cannot be fetched from the hub ({_first_line(error)}): "
            "check the name; for a private repository, log in with `hf auth login`"
        ) from None
    return Path(snapshot, *inner)


def _artifact(source: str) -> Path:
    """Download an artifact from W&B, to where W&B keeps those: ``artifacts`` here, or ``WANDB_ARTIFACT_DIR``."""
    import wandb  # which takes a second

    try:
        return Path(wandb.Api().artifact(source.removeprefix(WANDB)).download())
    except Exception as error:  # of many kinds: no key, no network, no such artifact
        raise UserError(
            f"{source!r} cannot be fetched from W&B ({_first_line(error)}): "
            "give wandb:entity/project/name:version, and log in with `wandb login`"
        ) from None


def push(
    folder: Path,
    repo_id: str,
    *,
    inner: str = "",
    metrics: Mapping[str, float | Figure] | None = None,
    dataset: str | None = None,
    private: bool = False,
) -> str:
    """Upload an SAE in SAELens' layout with a model card, in one commit, and return the commit's address.

    Args:
        folder: where the SAE is stored.
        repo_id: ``user/repository``, created if it does not exist; ``user`` defaults to one's own account.
        inner: folder in the repository, if it holds several SAEs; each has its card beside it.
        metrics: metrics for the card; by default those logged in training.
        dataset: the data that they were measured on.
        private: whether a repository that is created is private.

    Raises:
        UserError: if the hub refuses.
    """
    api, prefix = HfApi(), f"{inner.strip('/')}/".lstrip("/")
    config = json.loads((folder / "cfg.json").read_text(encoding="utf-8"))
    try:
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        card = model_card(config, f"{repo_id}/{prefix}".rstrip("/"), metrics, dataset)
        operations = [
            CommitOperationAdd(f"{prefix}cfg.json", folder / "cfg.json"),
            CommitOperationAdd(f"{prefix}sae_weights.safetensors", folder / "sae_weights.safetensors"),
            CommitOperationAdd(f"{prefix}README.md", card.encode()),
        ]
        return str(api.create_commit(repo_id, operations, commit_message="Add an SAE").commit_url)
    except Exception as error:  # depends on the client's HTTP library
        raise UserError(
            f"the hub did not take {repo_id!r} ({_first_line(error)}): "
            "check the name, and log in with a token that may write (`hf auth login`)"
        ) from None


def model_card(
    config: Mapping[str, Any],
    source: str,
    metrics: Mapping[str, float | Figure] | None = None,
    dataset: str | None = None,
) -> str:
    """Return the model card of an SAE, with the metrics in a table and in the header, where the hub reads them.

    Args:
        config: SAELens' ``cfg.json``.
        source: the SAE's name on the hub: ``user/repository`` or ``user/repository/folder``.
        metrics: metrics by name; by default those logged in training.
        dataset: the data that they were measured on.
    """
    metadata = dict(config.get("metadata", {}))
    trained_on, measured_on = metadata.pop("metrics", {}), metadata.pop("metrics_on", "")
    metrics, dataset = (trained_on, measured_on) if metrics is None else (metrics, dataset or "held-out clips")
    plain = {name: value for name, value in metadata.items() if isinstance(value, str | int)}
    user, repository, *inner = source.split("/")
    model = str(plain.get("model_name", ""))
    values = {name: figure.value if isinstance(figure, Figure) else figure for name, figure in metrics.items()}
    header = ModelCardData(
        library_name="ard",
        tags=["sparse-autoencoder", "saelens", "interpretability", "audio"],
        base_model=model if HUB.fullmatch(model) else None,
        model_name=source,
        eval_results=[
            EvalResult("feature-extraction", dataset, dataset, name, value)
            for name, value in values.items()
            if math.isfinite(value)
        ],
    )
    facts = {name: config[name] for name in ("architecture", "d_in", "d_sae", "k") if name in config} | plain
    lines = [f"| {name} | {value} |" for name, value in facts.items()]
    measured = [f"| {name} | {_figure(name, figure)} |" for name, figure in metrics.items()]
    table = "\n".join([f"| on {dataset} | |", "| --- | --- |", *measured]) if measured else "None were given."
    opened = f'snapshot_download("{user}/{repository}")' + (f' + "/{"/".join(inner)}"' if inner else "")
    return CARD.format(header=header.to_yaml(), source=source, facts="\n".join(lines), metrics=table, opened=opened)


CARD = """---
{header}
---

# {source}

A sparse autoencoder of the residual stream of a language model, trained with `ard`.

| | |
| --- | --- |
{facts}

## Metrics

{metrics}

## Use

```python
from ard.sae import load_dictionary

sae = load_dictionary("{source}")
```

or with [SAELens](https://github.com/decoderesearch/SAELens):

```python
from huggingface_hub import snapshot_download
from sae_lens import SAE

sae = SAE.load_from_disk({opened})
```
"""


def _figure(name: str, figure: float | Figure) -> str:
    better = figure.better if isinstance(figure, Figure) else BETTER.get(name, "neither")
    direction = "" if better == "neither" else f", {better} is better"
    if not isinstance(figure, Figure):
        return f"{figure:.4g}{direction}"
    unit = f" {figure.unit}" if figure.unit else ""
    return f"{figure.value:.4g}{unit} [{figure.low:.4g}, {figure.high:.4g}], n = {figure.n}{direction}"


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
