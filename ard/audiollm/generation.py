"""The options for generation that a checkpoint brings along."""

from typing import Any

from transformers import GenerationConfig

KEPT = (
    *("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "forced_bos_token_id"),
    *("repetition_penalty", "no_repeat_ngram_size", "bad_words_ids", "suppress_tokens", "begin_suppress_tokens"),
    *("top_k", "top_p", "min_p", "typical_p"),  # for draws
)
"""Options that change which token is likely. All others change the search, or what is returned."""


def keep_plain_options(network: Any) -> None:
    """Drop the options of a model's ``generation_config`` that would change how ``generate`` searches or answers.

    The call to ``generate`` decides how to search.
    """
    config = getattr(network, "generation_config", None)
    if config is not None:
        network.generation_config = GenerationConfig(**{name: getattr(config, name, None) for name in KEPT})
