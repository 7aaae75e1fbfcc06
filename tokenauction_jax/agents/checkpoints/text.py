"""From text to tokens and back, and prompts in a checkpoint's own chat format."""

from __future__ import annotations

import contextlib
import functools
import itertools
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tokenizers
from tokenizers import decoders

from tokenauction_jax import files
from tokenauction_jax.agents.checkpoints.reading import CheckpointError
from tokenauction_jax.agents.checkpoints.templates import render

# Variables of every template. Without tools and documents they are None, as
# `transformers` has it: templates ask `if tools is not none`.
_ABSENT = {"tools": None, "documents": None}
_RESERVED = {"messages", "add_generation_prompt", *_ABSENT}
_NEEDED_FOR = (
    "which a system prompt and chat_template_kwargs need: leave them out, or write "
    "them into the prompt"
)


class Tokenizer:
    """A checkpoint's tokenizer, its chat template, and the tokens that end a text.

    Args:
      backend: The tokenizer of the `tokenizers` library.
      end_tokens: The ids that end a text, the usual one first.
      chat_template: Jinja source, or None for a model without a chat format.
      special_tokens: Special tokens for the template, by names such as `"bos_token"`.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        end_tokens: Sequence[int] = (),
        chat_template: str | None = None,
        special_tokens: Mapping[str, str] | None = None,
    ):
        self._backend = backend
        self._special_tokens = dict(special_tokens or {})
        self.end_tokens = tuple(dict.fromkeys(end_tokens))
        self.chat_template = chat_template

    @property
    def end_token(self) -> int | None:
        """The token that usually ends a text, None if there is none."""
        return self.end_tokens[0] if self.end_tokens else None

    @functools.cached_property
    def vocabulary(self) -> dict[str, int]:
        """All tokens, as the checkpoint spells them, and their ids."""
        return self._backend.get_vocab(with_added_tokens=True)

    @property
    def vocab_size(self) -> int:
        """One more than the largest token id."""
        return max(self.vocabulary.values(), default=-1) + 1

    def save(self, folder: pathlib.Path) -> None:
        """Writes the files of a Hugging Face directory, read by `from_directory`."""
        backend = self._backend.to_str(pretty=True)
        files.write(folder / "tokenizer.json", backend)
        config = {"tokenizer_class": "PreTrainedTokenizerFast", **self._special_tokens}
        if end := self._backend.id_to_token(self.end_token or 0):
            config |= {"eos_token": end} if self.end_tokens else {}
        files.write_json(folder / "tokenizer_config.json", config)
        if self.chat_template is not None:
            files.write(folder / "chat_template.jinja", self.chat_template)

    def encode(self, text: str, *, special_tokens: bool = True) -> list[int]:
        """The token ids of a text.

        Args:
          text: Any text; special tokens that are spelled out in it are recognised.
          special_tokens: Whether to add those that the model expects around a text,
            such as a first token. Chat templates write them themselves.

        Raises:
          CheckpointError: If the tokenizer cannot encode the text.
        """
        with refusing("tokenizer: it cannot encode this text"):
            return self._backend.encode(text, add_special_tokens=special_tokens).ids

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of token ids, without special tokens.

        Raises:
          CheckpointError: If the tokenizer cannot decode them.
        """
        with refusing("tokenizer: it cannot decode these tokens"):
            return self._backend.decode([int(token) for token in tokens])

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        """The text that each token adds; together they are `decode(tokens)`.

        A character spread over several tokens belongs to the last of them.
        """
        text = self.decode(tokens)
        stream = decoders.DecodeStream(skip_special_tokens=True)
        try:
            with refusing("tokenizer"):
                pieces = [stream.step(self._backend, int(x)) or "" for x in tokens]
        except CheckpointError:
            return self._pieces_by_prefix(tokens, text)
        shown = "".join(pieces)
        if not text.startswith(shown):
            return self._pieces_by_prefix(tokens, text)
        if pieces:
            pieces[-1] += text[len(shown) :]  # Bytes that complete no character.
        return pieces

    def _pieces_by_prefix(self, tokens: Sequence[int], text: str) -> list[str]:
        """`pieces` in quadratic time, where a token changes the text before it.

        Decoders with byte fallback do so: bytes that turn out not to be UTF-8 make
        the valid ones before them replacement characters, too.
        """
        ends = [0]
        for count in range(1, len(tokens)):
            ends.append(max(ends[-1], _agreement(text, self.decode(tokens[:count]))))
        return [text[a:b] for a, b in itertools.pairwise([*ends, len(text)])]

    def render_chat(
        self,
        messages: str | Sequence[Mapping[str, Any]],
        *,
        system: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        add_generation_prompt: bool = True,
    ) -> str:
        """A conversation as the text that the model was trained to continue.

        It is what `apply_chat_template` of `transformers` makes of it. Some templates
        insert the date, so their prompts change from day to day.

        Args:
          messages: One message of the user, or a list of `{"role": ..., "content":
            ...}`; without a chat template only a single message, which is returned
            unchanged.
          system: A system prompt, put before the messages.
          chat_template_kwargs: More variables of the template, such as
            `{"enable_thinking": False}` for Qwen3.
          add_generation_prompt: Whether to begin the answer of the assistant.

        Raises:
          CheckpointError: If the template refuses the messages, or is itself refused.
          ValueError: If there is no template for a list, a system prompt or variables,
            or a variable has a name that the template gets from elsewhere.
        """
        variables = dict(chat_template_kwargs or {})
        if self.chat_template is None and (system is not None or variables):
            raise ValueError(f"the tokenizer has no chat template, {_NEEDED_FOR}")
        if taken := _RESERVED & variables.keys():
            raise ValueError(
                f"chat_template_kwargs has {min(taken)!r}, which every chat template "
                "gets anyway: leave it out"
            )
        if isinstance(messages, str):
            if self.chat_template is None:
                return messages
            messages = [{"role": "user", "content": messages}]
        if self.chat_template is None:
            raise ValueError("messages need a chat template: give one string instead")
        if system is not None:
            messages = [{"role": "system", "content": system}, *messages]
        variables = self._special_tokens | _ABSENT | variables
        variables["messages"] = [_without_none(message) for message in messages]
        variables["add_generation_prompt"] = add_generation_prompt
        try:
            return render(self.chat_template, **variables)
        except CheckpointError as error:
            if system is None:
                raise
            raise CheckpointError(f"{error}, or leave out the system prompt") from None

    def encode_prompt(
        self,
        prompt: str,
        *,
        chat: bool = True,
        system: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """The token ids of one message of the user, or of a plain text.

        Args:
          prompt: The message or text.
          chat: Whether to render it by the chat template, if there is one.
          system: A system prompt, as in `render_chat`.
          chat_template_kwargs: Variables of the template, as in `render_chat`.

        Raises:
          CheckpointError: If the template or the tokenizer refuses the message.
          ValueError: If there is no template for a system prompt or variables.
        """
        options = {"system": system, "chat_template_kwargs": chat_template_kwargs}
        if not chat:
            if system is not None or chat_template_kwargs:
                raise ValueError(f"chat is False: no chat template, {_NEEDED_FOR}")
            return self.encode(prompt)
        rendered = self.render_chat(prompt, **options)
        return self.encode(rendered, special_tokens=self.chat_template is None)


@contextlib.contextmanager
def refusing(what: str) -> Iterator[None]:
    """Turns whatever the tokenizers library raises into a refusal.

    Raises:
      CheckpointError: In place of plain `Exception`, and of a panic of its Rust code,
        which is a `BaseException` whose class cannot be imported.
    """
    try:
        yield
    except CheckpointError:
        raise
    except BaseException as error:
        panic = type(error).__name__ == "PanicException"
        if not panic and not isinstance(error, Exception):
            raise
        raise CheckpointError(f"{what}: {error}: get it again") from None


def _without_none(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message as templates expect it: what is None is not there."""
    return {key: value for key, value in message.items() if value is not None}


def _agreement(one: str, other: str) -> int:
    """How many characters two texts have in common from their beginning."""
    pairs = enumerate(zip(one, other, strict=False))
    differ = (place for place, (x, y) in pairs if x != y)
    return next(differ, min(len(one), len(other)))
