"""The training of SAEs, as stages of a plan: those of a layer side by side, in the preset's arithmetic or another."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ard.plan import cost, machine
from ard.plan.stages import StagePlan

if TYPE_CHECKING:
    from ard.plan.planner import Planner


def own_arithmetic(planner: "Planner") -> str:
    """How a GPU multiplies in training: ``float32``, ``tf32``, ``bfloat16`` or ``float16``."""
    precision = str(planner.preset.trainer("precision", "32-true"))
    if not precision.startswith("32"):
        return "float16" if precision.startswith("16") else "bfloat16"
    return "tf32" if planner.setting("fit", "SAETraining", "float32_products") == "high" else "float32"


def trained(planner: "Planner") -> dict[int, list[int]]:
    """Return the expansions that each layer is trained with, side by side."""
    by_layer: dict[int, list[int]] = {}
    for layer, of in planner.cells("fit"):
        assert isinstance(of, int)
        by_layer.setdefault(layer, []).append(of)
    return by_layer


def trainings(planner: "Planner", arithmetic: str | None = None) -> list[StagePlan]:
    """Return the training of each layer, in the preset's arithmetic or another."""
    return [training(planner, layer, of, arithmetic) for layer, of in trained(planner).items()]


def training(planner: "Planner", layer: int, expansions: Sequence[int], arithmetic: str | None = None) -> StagePlan:
    """The steps of a layer's SAEs side by side, which read the activations once.

    Adam moves 28 bytes a weight, its gradient 8 more, and a copy in bfloat16 6. Each sparse product is made the
    faster way: dense, or by gathering rows, which is traffic of the GPU's memory and no work for its matrix units.
    """
    on, arithmetic = planner.on, arithmetic or own_arithmetic(planner)
    itemsize = 4 if arithmetic in ("float32", "tf32") else 2
    k_aux = planner.setting("fit", "SAETraining", "k_aux") if planner.setting("fit", "SAETraining", "robust") else 0
    num_tokens, num_steps = planner.trained_tokens, planner.trained_tokens // planner.batch_tokens
    flops, streamed, gathered, num_weights = 0, 0, 0, 0
    for d_sae in (expansion * planner.d_in for expansion in expansions):
        of_sae = 2 * planner.d_in * d_sae + d_sae + planner.d_in
        num_weights += of_sae
        streamed += (36 + (6 if itemsize == 2 else 0)) * of_sae * num_steps
        for k in (planner.fact("k"), k_aux) if k_aux else (planner.fact("k"),):
            dense, sparse = (num_tokens * flops for flops in cost.training_flops(planner.d_in, d_sae, k))
            rows = itemsize * sparse // 2  # of all four sparse products
            is_dense = on.products_s(4 * dense, arithmetic) < on.gathered_s(rows)
            flops += 5 * dense if is_dense else dense
            gathered += 0 if is_dense else rows
            streamed += machine.TOP_K_READS[itemsize] * itemsize * d_sae * num_tokens
    precision, copies, kept_every = str(planner.preset.trainer("precision", "32-true")), 0, None
    if planner.preset.trainer("enable_checkpointing", True):
        copies, kept_every = (
            planner.setting("fit", "ModelCheckpoint", name) for name in ("save_top_k", "every_n_train_steps")
        )
    planner.assumptions.append(
        f"SAEs train in {arithmetic} (trainer.precision {precision} in fit.yaml), those of a layer side by side; "
        + (f"{copies} checkpoints of each stay, with Adam's states" if copies else "no checkpoints stay")
        + ("; AuxK as if all features were dead" if k_aux else "")
    )
    workers = planner.setting("fit", "ActivationDataModule", "num_workers")
    mixed = 0 if workers else 4 * planner.setting("fit", "ActivationDataModule", "buffer_tokens") * planner.d_in
    read = num_tokens * planner.d_in * cost.itemsize(planner.store_dtype)
    return StagePlan(
        "SAE training",
        f"layer {layer}, e {', '.join(map(str, expansions))}",
        arithmetic,
        num_tokens=num_tokens,
        num_bytes=num_weights * (4 + 12 * copies),
        flops=flops,
        traffic_bytes=streamed + gathered,
        gpu_bytes=16 * num_weights + 4 * planner.batch_tokens * max(expansions) * planner.d_in + mixed,
        gpu_s=on.products_s(flops, arithmetic) + on.streamed_s(streamed) + on.gathered_s(gathered),
        cpu_s=machine.MIX_S * read / 1e9,
        processes=max(1, workers),
        read_bytes=read,
        written_bytes=num_weights * (4 + (12 * (num_steps // kept_every) if copies and kept_every else 0)),
        overlaps=True,
        layer=layer,
    )
