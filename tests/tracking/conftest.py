"""Small runs of the real wandb, offline."""

import numpy as np
import pytest
import wandb

LOSSES = [1.5, 0.1 + 0.2, 1e-300]


@pytest.fixture(scope="session")
def logged(tmp_path_factory):
    """A folder with two runs: ``maker``, which was continued, and ``user``, which was made from an artifact of it."""
    folder = tmp_path_factory.mktemp("logged")
    (folder / "weights.bin").write_bytes(b"weights")
    (folder / "shards").mkdir()
    (folder / "shards" / "0.bin").write_bytes(b"activations")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_DATA_DIR", str(folder / "wandb"))
        patch.setenv("WANDB_CACHE_DIR", str(folder / "cache"))
        wandb.teardown()  # its service keeps the environment that it was started in
        with start(folder, "maker", group="g", name="Maker", job_type="fit", tags=["a", "b"], config=SETTINGS) as run:
            for step, loss in enumerate(LOSSES):
                run.log({"loss": loss, "val/f1": 0.5, "nested": {"step": step}})
            run.log({"nan": float("nan"), "inf": float("inf"), "m": wandb.Histogram([1.0, 2.0, 2.0], num_bins=2)})
            run.log({"concepts": table(), "bark": wandb.Audio(sound(0.5), sample_rate=8000, caption="bark")})
            run.summary["best"] = 0.25
            run.summary["gone"] = 1
            del run.summary["gone"]
            run.config.update({"late": "ok", "sae": {"k": 4}}, allow_val_change=True)
            run.log_artifact(artifact(folder), aliases=["best"])
        with start(folder, "user", job_type="evaluate") as run:
            run._log_artifact(artifact(folder), is_user_created=True, use_after_commit=True)
            run.log({"f1": 0.75})
        with start(folder, "maker", resume="allow", config={"sae": {"expansion": 8}, "new": True}) as run:
            run.log({"loss": 0.25})
            run.log({"loss": 0.125}, step=100)
        wandb.teardown()
    return folder


SETTINGS = {"lr": 1e-4, "sae": {"layers": [1, 2], "d_in": 16}, "empty": {}, "text": "é" * 70_000}


def start(folder, id_, **given):
    settings = wandb.Settings(console="off", x_disable_stats=True, x_save_requirements=False, silent=True)
    return wandb.init(mode="offline", project="p", dir=folder, id=id_, settings=settings, **given)


def sound(level):
    return np.full(400, level, dtype=np.float32)


def table():
    rows = [["dog", 0.5, wandb.Audio(sound(0.25), sample_rate=8000, caption="a dog")], ["rain", None, None]]
    return wandb.Table(columns=["name", "q", "clip"], data=rows)


def artifact(folder):
    made = wandb.Artifact("sae", "model", metadata={"k": 4})
    made.add_file(str(folder / "weights.bin"))
    made.add_reference((folder / "shards").as_uri(), name="shards", checksum=False)
    return made
