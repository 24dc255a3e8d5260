"""What it costs to ask whether concepts hear or read: prompts of the embedded model, at the demo's size.

The clips are the corpus' own, and the SAE is a random one: neither changes the cost. Times are the shortest that the
process computes on one thread, so that a busy machine changes little.
"""

from jaxtyping import Float
from torch import Tensor

from ard.audio import SyntheticCorpus
from ard.audiollm import load_audiollm
from ard.evaluation.hear import highest, neutral_audio, tokens_of_pairs
from ard.evaluation.hearing import CONDITIONS, over_pairs
from ard.sae import TopKSAE
from ard.types import Clip
from experiments.bench.preparing import REPEATS, core_seconds, one_thread
from experiments.bench.report import Line

TITLE = "Hears or reads: prompts of the embedded model, layer 3, 1,024 features, K 16"
TEXTS = "This is a sound.", "This is the sound of rain.", "This is the sound of thunder."
NUM_PAIRS, LAYER, D_SAE, K, NUM_FEATURES = 4, 3, 1024, 16, 24


def main(num_pairs: int = NUM_PAIRS, repeats: int = REPEATS) -> list[Line]:
    """Time the pairs of a name, what of them is the model's work, and the figures of a concept, on one core."""
    model = load_audiollm()
    sae = TopKSAE(model.d_in, D_SAE, k=K).requires_grad_(False)
    clips = list(SyntheticCorpus("probe", num_clips=num_pairs))
    num_prompts = num_pairs * len(CONDITIONS)

    def asked() -> tuple[list[Clip], list[str]]:
        heard = [one for clip in clips for one in (clip, neutral_audio(clip, 0, is_noise=True)) * 3]
        return heard, [TEXTS[which] for which in (0, 1, 1, 0, 2, 2)] * num_pairs

    def measured() -> Float[Tensor, "prompts features"]:
        return highest(sae, tokens_of_pairs(model, LAYER, *asked()), range(NUM_FEATURES))

    with one_thread():
        whole = core_seconds(measured, repeats)
        making = core_seconds(lambda: model.prompter(*asked()), repeats)
        activity = measured().unflatten(0, (-1, len(CONDITIONS)))[..., 0].numpy()
        figures = core_seconds(lambda: over_pairs(activity, 0), repeats)
    return [
        Line("the pairs of a name", 1000 * whole, "ms of one core", f"{num_pairs} pairs, {num_prompts} prompts"),
        Line("a prompt", 1000 * whole / num_prompts, "ms of one core", "with its share of the batch"),
        Line("making the prompts", making / whole, "of the time", "neutral audio and features of sounds"),
        Line("figures and intervals of a concept", 1000 * figures, "ms of one core", "1,000 resamples"),
    ]
