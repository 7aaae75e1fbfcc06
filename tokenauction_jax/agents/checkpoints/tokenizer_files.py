"""Tokenizers from the files of a checkpoint: GGUF metadata, or `tokenizer.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers
from pydantic import Field
from tokenizers import AddedToken, Regex, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing

from tokenauction_jax.agents.checkpoints.reading import (
    CheckpointError,
    Settings,
    TokenId,
    parse,
)
from tokenauction_jax.agents.checkpoints.text import Tokenizer, refusing

_LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2_SPLIT = _LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")
# Values of `tokenizer.ggml.token_type`.
_CONTROL, _USER_DEFINED = 3, 4
# Names in chat templates, and in GGUF files.
_SPECIAL_TOKENS = {
    "bos_token": "bos",
    "eos_token": "eos",
    "unk_token": "unknown",
    "pad_token": "padding",
}


def _byte_level(regex: str | None = None) -> pre_tokenizers.PreTokenizer:
    """Splits text by a regular expression, None for GPT-2's, and spells its bytes."""
    if regex is None:
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    split = pre_tokenizers.Split(Regex(regex), behavior="isolated")
    spell = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([split, spell])


def _pre_tokenizer(name: str) -> pre_tokenizers.PreTokenizer:
    digits = pre_tokenizers.Digits(individual_digits=True)
    known = {
        "gpt-2": _byte_level(),
        "smollm": pre_tokenizers.Sequence([digits, _byte_level()]),
        "qwen2": _byte_level(_QWEN2_SPLIT),
        "llama-bpe": _byte_level(_LLAMA3_SPLIT),
    }
    if name not in known:
        raise ValueError(
            f"unknown pre-tokenizer {name!r} (known: {', '.join(known)}): "
            "use the checkpoint's Hugging Face directory instead"
        )
    return known[name]


class _Vocabulary(Settings):
    """The tokenizer in the metadata of a GGUF file."""

    model: str
    pre: str
    tokens: list[str] = Field(min_length=1)
    merges: list[str]
    token_type: list[int] = Field([])
    add_bos_token: bool | None = None
    bos_token_id: TokenId | None = None
    eos_token_id: TokenId | None = None
    eot_token_id: TokenId | None = None
    eom_token_id: TokenId | None = None
    unknown_token_id: TokenId | None = None
    padding_token_id: TokenId | None = None

    def token(self, key: str) -> str | None:
        """The spelling of a special token, None if there is none."""
        place = getattr(self, f"{key}_token_id")
        if place is None:
            return None
        if place >= len(self.tokens):
            raise CheckpointError(
                f"tokenizer.ggml: {key}_token_id is {place}, outside the vocabulary of "
                f"{len(self.tokens)}: get it again"
            )
        return self.tokens[place]


class _Template(Settings):
    chat_template: str | None = Field(None, alias="tokenizer.chat_template")


def from_gguf(metadata: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer described by the metadata of a GGUF file.

    Raises:
      CheckpointError: If it is not byte-level BPE, its pre-tokenizer is unknown, or
        something is missing or makes no sense.
    """
    fields = {
        key.removeprefix("tokenizer.ggml."): value
        for key, value in metadata.items()
        if key.startswith("tokenizer.ggml.")
    }
    if fields.get("model", "gpt2") != "gpt2":
        raise CheckpointError(
            f"unknown tokenizer model {fields['model']!r} (known: gpt2, byte-level "
            "BPE): use the checkpoint's Hugging Face directory instead"
        )
    given = parse(_Vocabulary, fields, "tokenizer.ggml")
    special = {name: given.token(key) for name, key in _SPECIAL_TOKENS.items()}
    special = {name: token for name, token in special.items() if token is not None}
    begins = given.add_bos_token
    begins = given.pre == "llama-bpe" if begins is None else begins
    if begins and "bos_token" not in special:
        raise CheckpointError("tokenizer.ggml has no 'bos_token_id': get it again")
    with refusing("tokenizer.ggml"):
        backend = _byte_pair_encoding(given.pre, given.tokens, given.merges)
        _add_tokens(backend, given.tokens, given.token_type)
        if begins:
            _begin_with(backend, special["bos_token"])
    ends = (given.eos_token_id, given.eot_token_id, given.eom_token_id)
    return Tokenizer(
        backend,
        end_tokens=[end for end in ends if end is not None],
        chat_template=parse(_Template, metadata, "GGUF metadata").chat_template,
        special_tokens=special,
    )


def _byte_pair_encoding(
    pre: str, tokens: list[str], merges: list[str]
) -> tokenizers.Tokenizer:
    vocab = {token: id for id, token in enumerate(tokens)}
    pairs = [(left, right) for left, _, right in (m.partition(" ") for m in merges)]
    # Llama 3 keeps words of its vocabulary whole even if the merges do not.
    model = BPE(vocab=vocab, merges=pairs, ignore_merges=pre == "llama-bpe")
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = _pre_tokenizer(pre)
    backend.decoder = decoders.ByteLevel()
    if pre == "qwen2":
        backend.normalizer = normalizers.NFC()
    return backend


def _add_tokens(
    backend: tokenizers.Tokenizer, tokens: list[str], types: list[int]
) -> None:
    """Makes control and user-defined tokens match as a whole in every text."""
    for token, kind in zip(tokens, types, strict=False):
        if kind == _CONTROL:
            backend.add_special_tokens([AddedToken(token, normalized=False)])
        elif kind == _USER_DEFINED:
            backend.add_tokens([AddedToken(token, normalized=False)])


def _begin_with(backend: tokenizers.Tokenizer, token: str) -> None:
    """Makes every encoded text begin with `token`."""
    backend.post_processor = TemplateProcessing(
        single=f"{token} $A",
        special_tokens=[(token, backend.token_to_id(token))],
    )


def from_directory(
    tokenizer_json: str,
    tokenizer_config: Mapping[str, Any],
    chat_template: str | None,
    end_tokens: Sequence[int],
    special_tokens_map: Mapping[str, Any] | None = None,
) -> Tokenizer:
    """The tokenizer of a Hugging Face directory.

    Args:
      tokenizer_json: The contents of `tokenizer.json`.
      tokenizer_config: The contents of `tokenizer_config.json`.
      chat_template: The contents of `chat_template.jinja`, None without one.
      end_tokens: The ids that end a text according to the model's configuration.
      special_tokens_map: The contents of `special_tokens_map.json`, if there is one.
    """
    with refusing("tokenizer.json"):
        backend = tokenizers.Tokenizer.from_str(tokenizer_json)
        backend.no_padding()  # Files may keep the settings of a training run.
        backend.no_truncation()
    special_tokens = _special_tokens(tokenizer_config, special_tokens_map or {})
    template = chat_template
    if template is None:
        template = parse(_Templates, tokenizer_config, "tokenizer_config.json").default
    end = backend.token_to_id(special_tokens.get("eos_token", ""))
    return Tokenizer(
        backend,
        end_tokens=[*end_tokens] if end is None else [end, *end_tokens],
        chat_template=template,
        special_tokens=special_tokens,
    )


def _special_tokens(
    config: Mapping[str, Any], special_tokens_map: Mapping[str, Any]
) -> dict[str, str]:
    """The special tokens by name, found as `transformers` finds them."""
    if "added_tokens_decoder" in config:  # Such a configuration is complete.
        special_tokens_map = {}
    found = {}
    sources = {
        "tokenizer_config.json": config,
        "special_tokens_map.json": special_tokens_map,
    }
    for file, source in sources.items():
        named = source.get("extra_special_tokens")
        named = named if isinstance(named, Mapping) else {}
        found |= {
            key: _spelling(file, key, value)
            for key, value in [*source.items(), *named.items()]
            if (key.endswith("_token") or key in named)
            and isinstance(value, str | Mapping)
        }
    return found


class _NamedTemplate(Settings):
    name: str
    template: str


class _Templates(Settings):
    """The chat templates of a `tokenizer_config.json`: one, or several by name."""

    chat_template: str | list[_NamedTemplate] | None = None

    @property
    def default(self) -> str | None:
        if not isinstance(self.chat_template, list):
            return self.chat_template
        by_name = {entry.name: entry.template for entry in self.chat_template}
        return by_name.get("default")


def _spelling(file: str, key: str, value: str | Mapping[str, Any]) -> str:
    content = (
        value["content"] if isinstance(value, Mapping) and "content" in value else value
    )
    if not isinstance(content, str):
        raise CheckpointError(f"{file}: {key} has no content")
    return content
