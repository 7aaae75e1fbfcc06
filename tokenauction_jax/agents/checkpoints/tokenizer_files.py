"""Tokenizers from the files of a Hugging Face directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import tokenizers
from pydantic import Field
from tokenizers import AddedToken

from tokenauction_jax.agents.checkpoints.end_tokens import end_tokens
from tokenauction_jax.agents.checkpoints.reading import (
    CheckpointError,
    Settings,
    TokenId,
    parse,
)
from tokenauction_jax.agents.checkpoints.text import Tokenizer, refusing


def from_directory(
    tokenizer_json: str,
    tokenizer_config: Mapping[str, Any],
    chat_template: str | None,
    stated_ends: Sequence[int],
    *,
    added_tokens: Mapping[str, Any] | None = None,
    special_tokens_map: Mapping[str, Any] | None = None,
) -> Tokenizer:
    """The tokenizer of a Hugging Face directory.

    Args:
      tokenizer_json: The contents of `tokenizer.json`.
      tokenizer_config: The contents of `tokenizer_config.json`.
      chat_template: The contents of `chat_template.jinja`, None without one.
      stated_ends: The ids that end a text according to the model's configuration.
      added_tokens: The contents of `added_tokens.json`, None without one.
      special_tokens_map: The contents of `special_tokens_map.json`, None without one.

    Raises:
      CheckpointError: If a file makes no sense, or they contradict each other.
    """
    with refusing("tokenizer.json"):
        backend = tokenizers.Tokenizer.from_str(tokenizer_json)
        backend.no_padding()  # Files may keep the settings of a training run.
        backend.no_truncation()
    special_tokens = _special_tokens(tokenizer_config, special_tokens_map or {})
    special = set(special_tokens.values())
    file = parse(_AddedFile, {"added_tokens": added_tokens or {}}, "added_tokens.json")
    added = {
        id: _Added(content=content, special=content in special)
        for content, id in file.added_tokens.items()
    }
    config = parse(_Config, tokenizer_config, "tokenizer_config.json")
    added |= {int(id): token for id, token in config.added_tokens_decoder.items()}
    with refusing("tokenizer_config.json: added tokens"):
        _add_tokens(backend, added, special)
    ends = list(stated_ends)
    if "eos_token" in special_tokens:
        ends.insert(0, _id(backend, special_tokens["eos_token"]))
    template = config.default_template if chat_template is None else chat_template
    return Tokenizer(
        backend,
        end_tokens=end_tokens(backend, ends, special_tokens.get("unk_token")),
        chat_template=template,
        special_tokens=special_tokens,
    )


def _special_tokens(
    config: Mapping[str, Any], special_tokens_map: Mapping[str, Any]
) -> dict[str, str]:
    """The special tokens by name; what counts is what counts in `transformers`."""
    found = {}
    sources = [
        ("tokenizer_config.json", config),
        ("special_tokens_map.json", special_tokens_map),
    ]
    if "added_tokens_decoder" in config:  # Such a configuration is newer than the map.
        sources.reverse()
    for file, source in sources:
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


class _Added(Settings):
    """A token that is matched as a whole before anything else is done with a text."""

    content: str = Field(min_length=1)
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False
    special: bool = False


class _AddedFile(Settings):
    added_tokens: dict[str, TokenId]


class _Config(Settings):
    """What is read of a `tokenizer_config.json` besides its special tokens."""

    added_tokens_decoder: dict[Annotated[str, Field(pattern=r"^\d{1,9}$")], _Added] = (
        Field({})
    )
    # One, or several by name.
    chat_template: str | list[_NamedTemplate] | None = None

    @property
    def default_template(self) -> str | None:
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


def _add_tokens(
    backend: tokenizers.Tokenizer, added: Mapping[int, _Added], special: set[str]
) -> None:
    """Adds the tokens that `tokenizer.json` lacks, as `transformers` does.

    So do special tokens of its vocabulary that it does not match as a whole.
    """
    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    for id, token in sorted(added.items()):
        if token.content not in known:
            is_special = token.special or token.content in special
            flags = token.model_dump(exclude={"content", "special"})
            backend.add_tokens([AddedToken(token.content, special=is_special, **flags)])
        if backend.token_to_id(token.content) != id:
            raise CheckpointError(
                f"the added token {token.content[:80]!r} should be {id}, but is "
                f"{backend.token_to_id(token.content)} for tokenizer.json: the files "
                "do not belong together"
            )
    known |= {token.content for token in added.values()}
    for content in sorted(special - known):
        if content and backend.token_to_id(content) is not None:
            backend.add_special_tokens([AddedToken(content, normalized=False)])


def _id(backend: tokenizers.Tokenizer, end: str) -> int:
    id = backend.token_to_id(end)
    if id is None:
        raise CheckpointError(
            f"the end token {end[:80]!r} is not in the vocabulary: the tokenizer's "
            "files do not belong together"
        )
    return id
