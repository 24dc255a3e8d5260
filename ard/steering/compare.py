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
    """Return the model's answers without and with the features set; see :func:`~ard.steering.steer`.

    Between the two is the answer with the SAE and nothing set, since the reconstruction alone may change the answer.
    With ``keep_error`` it is left out, because it equals the first one.
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
