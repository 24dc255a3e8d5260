"""Activations for tests, as an extraction leaves them."""

from ard.activations.store import write_manifest, write_shard


def write_activations(folder, clips, layer=0, model="none"):
    """Write clips, each its metadata without the number of tokens, and [tokens, d_in] at the layer, as one shard."""
    clips = list(clips)
    x = clips[0][1]
    about = {"model": model, "layers": [layer], "dtype": str(x.dtype).removeprefix("torch.")}
    write_shard(folder, 0, [({**of, "num_tokens": len(x)}, {layer: x}) for of, x in clips], [], about)
    write_manifest(folder, 1, x.shape[1], about)
