"""The tokens that end a text: those that a checkpoint states, and others by name."""

from __future__ import annotations

from collections.abc import Sequence

import tokenizers

# Tokens with which some family ends a text or a turn. GGUF files state one of them and
# leave the others to their names; so does llama.cpp (`llama_vocab::impl::load`).
_NAMES = frozenset(
    (
        *("</s>", "<eos>", "<|endoftext|>", "<|end_of_text|>", "<|end|>", "<EOT>"),
        *("<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<end_of_turn>", "[EOS]", "[EOT]"),
        *("_<EOT>", "▁<EOT>", "<end_of_utterance>", "<\uff5cend▁of▁sentence\uff5c>"),
    )
)


def end_tokens(
    backend: tokenizers.Tokenizer, stated: Sequence[int], unknown: str | None = None
) -> list[int]:
    """The ids that end a text, alike for all formats of a checkpoint.

    Args:
      backend: The tokenizer, with its special tokens.
      stated: The ids that the checkpoint states, the usual one first.
      unknown: The token in place of unknown text. Some tokenizers give it a name of
        the list, although no text ends with it.

    Returns:
      The usual one, then the others in the order of their ids.
    """
    added = backend.get_added_tokens_decoder().items()
    special = {token.content: id for id, token in added if token.special}
    named = {special[name] for name in _NAMES & special.keys() if name != unknown}
    return [*stated[:1], *sorted({*stated, *named} - {*stated[:1]})]
