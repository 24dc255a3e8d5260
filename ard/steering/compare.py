"""One clip, one question: what the model answers without and with features set."""

from collections.abc import Mapping

from ard.audiollm import AudioLLM
from ard.sae import Dictionary
from ard.steering.steer import Phase, Where, steer
from ard.types import Clip


def compare_answers(
    model: AudioLLM,
    coder: Dictionary,
    layer: int,
    clamp: Mapping[int, float],
    clip: Clip,
    prompt: str,
    *,
    positions: Where = "all",
    phase: Phase = "prefill",
    keep_error: bool = False,
    max_new_tokens: int = 64,
) -> dict[str, str]:
    """Return the answers by how they came about; see :func:`~ard.steering.steer`.

    Between the two stands that of the SAE with nothing set, since what it rebuilds may change the answer, too. Where
    the error is kept it is left out: it is the first one.
    """

    def answer() -> str:
        return model.generate([clip], [prompt], max_new_tokens)[0]

    answers = {"without": answer()}
    if not keep_error:
        with steer(model, coder, layer, {}):
            answers["with the SAE, nothing set"] = answer()
    with steer(model, coder, layer, clamp, positions=positions, phase=phase, keep_error=keep_error):
        answers["with"] = answer()
    return answers
