"""Language models as agents: a prompt each, one shared text per auction."""

from __future__ import annotations

import contextlib
import dataclasses
import operator
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np

from tokenauction_jax import records
from tokenauction_jax.agents.checkpoints.text import Tokenizer
from tokenauction_jax.agents.filters import Sampling, filter_logits, sampling
from tokenauction_jax.agents.models.decoder import Decoder
from tokenauction_jax.agents.models.group import Group, GroupState, new_group
from tokenauction_jax.agents.models.lora import Adapter
from tokenauction_jax.outside import listed, quoted

_T = TypeVar("_T")


class PoolState(NamedTuple):
    """The number of steps so far, and the state of each group."""

    position: jax.Array
    groups: tuple[GroupState, ...]


@records.record
class LanguageModelPool:
    """``n`` language models, whose weights are leaves; see `from_language_model`.

    Attributes:
      groups: The agents by model.
      sampling: The filters of all agents.
      vocab_size: ``V``.
      known: `(V,)`, which tokens have a text, None if all; others are never drawn.
      end_tokens: All tokens that end a text; their probabilities go to the first.
    """

    groups: tuple[Group, ...]
    sampling: Sampling
    known: jax.Array | None
    vocab_size: int = records.static_field()
    end_tokens: tuple[int, ...] = records.static_field()
    deterministic: ClassVar[bool] = True

    @property
    def num_agents(self) -> int:
        """Number of agents, ``n``."""
        return sum(len(group.agents) for group in self.groups)

    @property
    def end_token(self) -> int | None:
        """The token that ends a text, None if texts only end at their cap."""
        return self.end_tokens[0] if self.end_tokens else None

    @property
    def most_tokens(self) -> int | None:
        """How many tokens of an auction top-k leaves, None without it."""
        return self.sampling.most_tokens

    def bytes_per_auction(self, num_tokens: int) -> int:
        """Bytes of the keys and values of one auction's text for all agents."""
        return sum(group.bytes_per_auction(num_tokens) for group in self.groups)

    def init(
        self,
        num_auctions: int,
        *,
        key: jax.Array | None = None,
        first_auction: jax.typing.ArrayLike = 0,
        num_tokens: int | None = None,
    ) -> PoolState:
        """Reads the prompts and makes room for `num_tokens` tokens of ``A`` texts.

        Args:
          num_auctions: ``A``.
          key: Not used; language models answer without randomness.
          first_auction: Not used.
          num_tokens: How often `step` will be called at most; required.

        Raises:
          ValueError: If `num_tokens` is missing, or a prompt and the text do not fit
            into the context of its model.
        """
        del key, first_auction
        if num_tokens is None:
            raise ValueError("num_tokens is None: language models need a cap on texts")
        groups = (group.init(num_auctions, num_tokens) for group in self.groups)
        return PoolState(jnp.zeros((), jnp.int32), tuple(groups))

    def check_context(self, num_tokens: int) -> None:
        """Raises `ValueError` if a prompt and a text do not fit into a context."""
        for group in self.groups:
            group.check_context(num_tokens)

    def step(self, state: PoolState, tokens: jax.Array) -> tuple[PoolState, jax.Array]:
        """Reads the last tokens `(A,)` and answers log-probabilities `(A, n, V)`.

        The first call answers from the prompts, whatever `tokens` are. Beyond the
        tokens that `init` made room for, answers are NaN under a transformation.

        Raises:
          ValueError: If a concrete `state` has no room for another token.
        """
        room = state.groups[0].cache[0].keys.shape[-2]
        if records.is_concrete(state.position) and int(state.position) >= room:
            raise ValueError(
                f"the state has room for {room} tokens and read as many: give init a "
                "larger num_tokens"
            )
        answers = [
            group.step(memory, state.position, tokens)
            for group, memory in zip(self.groups, state.groups, strict=True)
        ]
        logits = self._together([logits for _, logits in answers])
        # Added: of a NaN that `where` chooses XLA's `exp` makes any number on a CPU.
        logits += jnp.where(state.position < room, 0, jnp.nan).astype(logits.dtype)
        state = PoolState(state.position + 1, tuple(memory for memory, _ in answers))
        return state, filter_logits(self.sampling, logits)

    def only(self, agents: Sequence[int]) -> LanguageModelPool:
        """A pool of some of the agents, by their numbers and in their order."""
        groups = (group.only(agents) for group in self.groups)
        return dataclasses.replace(
            self,
            groups=tuple(group for group in groups if group is not None),
            sampling=self.sampling.only(agents),
        )

    def score(self, tokens: jax.Array, mask: jax.Array) -> jax.Array:
        """Log-probabilities `(A, n)` of texts, read in one pass behind the prompts.

        They are the sums of what `step` answers for their tokens, up to rounding.

        Args:
          tokens: `(A, T)`.
          mask: `(A, T)`, which tokens count; those after the first that does not must
            not.
        """
        answers = [jnp.moveaxis(x.extend(tokens), 1, 2) for x in self.groups]
        log_probs = filter_logits(self.sampling, self._together(answers))
        read = jnp.take_along_axis(log_probs, tokens[..., None, None], axis=3)
        return jnp.where(mask[..., None], read[..., 0], 0).sum(1)

    def _together(self, answers: Sequence[jax.Array]) -> jax.Array:
        """Logits `(..., n, V)` of all agents from those of the groups."""
        logits = jnp.concatenate([x[..., : self.vocab_size] for x in answers], axis=-2)
        order = np.argsort([agent for group in self.groups for agent in group.agents])
        if (order != np.arange(self.num_agents)).any():
            logits = logits[..., order, :]
        if self.known is not None:
            before = (1,) * (logits.ndim - 1)
            known = self.known.reshape(*before, -1)
            logits = jnp.where(known, logits, -jnp.inf)
        return _merge_ends(logits, self.end_tokens)


def _merge_ends(logits: jax.Array, end_tokens: tuple[int, ...]) -> jax.Array:
    """Gives the probability of all tokens that end a text to the first of them."""
    if len(end_tokens) < 2:
        return logits
    ends = np.array(end_tokens)
    total = jax.nn.logsumexp(logits[..., ends], axis=-1)
    return logits.at[..., ends[1:]].set(-jnp.inf).at[..., ends[0]].set(total)


def from_language_model(
    models: Decoder | Sequence[Decoder],
    tokenizer: Tokenizer | Sequence[Tokenizer] | None,
    prompts: Sequence[str | Sequence[int]],
    *,
    chat: bool = True,
    system: str | Sequence[str | None] | None = None,
    chat_template_kwargs: Mapping[str, Any]
    | Sequence[Mapping[str, Any] | None]
    | None = None,
    temperature: float | Sequence[float] = 1.0,
    top_k: int | Sequence[int | None] | None = None,
    top_p: float | Sequence[float | None] | None = None,
    min_p: float | Sequence[float | None] | None = None,
    adapters: Adapter | Sequence[Adapter | None] | None = None,
) -> LanguageModelPool:
    """Agents that continue the shared text, each after a prompt of its own.

    Args:
      models: One model for all agents, or one each; they share a vocabulary, which
        their embeddings may fill up differently.
      tokenizer: One for all agents, or one each with the same vocabulary but its own
        chat template; None if prompts are token ids and texts only end at their cap.
      prompts: One per agent, as text or as token ids.
      chat: Whether prompts are messages of the user, rendered by the chat template if
        there is one, rather than the beginning of a text to continue.
      system: The system prompt; one for all agents, or one each, None without one.
      chat_template_kwargs: Variables of the chat template besides the messages, such
        as `{"enable_thinking": False}` for Qwen3; for all agents, or a mapping each.
      temperature: Divides the logits; one for all agents, or one each.
      top_k: How many tokens stay; None for all.
      top_p: The probability that the tokens that stay must reach; None for all.
      min_p: The least probability relative to the most probable token; None for all.
      adapters: Low-rank changes of the agents' models; one for all agents, or one each,
        None for an agent without one. Agents of one model decode together whatever
        their adapters are, and the model is kept once.

    Returns:
      A pool whose weights, adapters, prompts and sampling numbers are leaves.

    Raises:
      ValueError: If the vocabularies differ, a prompt is empty or invalid, a count or
        a number is wrong, or an adapter does not fit its model.

    >>> import tokenauction_jax as ta
    >>> smollm2 = ta.agents.load_checkpoint("smollm2-135m-instruct")  # doctest: +SKIP
    >>> pool = ta.agents.from_language_model(
    ...     smollm2.model, smollm2.tokenizer, ["Praise the sea.", "Praise hills."],
    ...     temperature=0.6, top_k=50)  # doctest: +SKIP
    """
    if isinstance(prompts, str) or not len(prompts):
        raise ValueError(
            f"prompts is {quoted(prompts)}: give a list with one per agent"
        )
    each = _one_each("models", models, len(prompts))
    tokenizers = _one_each("tokenizer", tokenizer, len(prompts))
    vocab_size = _shared_vocabulary(each, tokenizers)
    systems = _one_each("system", system, len(prompts))
    variables = _one_each("chat_template_kwargs", chat_template_kwargs, len(prompts))
    encoded = [
        _encode(*about, chat=chat, vocab_size=vocab_size)
        for about in zip(prompts, tokenizers, systems, variables, strict=True)
    ]
    by_model: dict[int, list[int]] = {}
    for agent, model in enumerate(each):
        by_model.setdefault(id(model), []).append(agent)
    changes = _one_each("adapters", adapters, len(prompts))
    groups = []
    for agents in by_model.values():
        own_prompts = [encoded[agent] for agent in agents]
        own_changes = [changes[agent] for agent in agents]
        groups.append(new_group(each[agents[0]], own_prompts, own_changes, agents))
    ends = (end for own in tokenizers if own is not None for end in own.end_tokens)
    filters = {"temperature": temperature, "top_k": top_k}
    filters |= {"top_p": top_p, "min_p": min_p}
    return LanguageModelPool(
        groups=tuple(groups),
        sampling=sampling(len(prompts), **filters),
        known=_known(vocab_size, tokenizers),
        vocab_size=vocab_size,
        end_tokens=tuple(dict.fromkeys(ends)),
    )


def _one_each(name: str, given: _T | Sequence[_T], num_agents: int) -> list[_T]:
    if isinstance(given, Sequence) and not isinstance(given, str):
        each = list(given)
    else:
        each = [cast(_T, given)] * num_agents
    if len(each) != num_agents:
        raise ValueError(f"{len(each)} {name} for {num_agents} prompts: give one each")
    return each


def _shared_vocabulary(
    models: Sequence[Decoder], tokenizers: Sequence[Tokenizer | None]
) -> int:
    """The number of tokens that all models have in common."""
    given = list({id(own): own for own in tokenizers if own is not None}.values())
    remedy = "the agents of an auction need models with the same tokens"
    for own in given[1:]:
        differing = own.vocabulary.items() ^ given[0].vocabulary.items()
        if differing:
            names = listed(name for name, _ in sorted(differing, key=lambda x: x[1]))
            raise ValueError(
                f"mismatched vocabularies of the tokenizers, which differ in {names}: "
                f"{remedy}"
            )
    sizes = sorted({model.config.vocab_size for model in models})
    # Models with the same tokens may fill up their embeddings differently.
    if len(sizes) > 1 and None in tokenizers:
        raise ValueError(f"mismatched vocabularies of {sizes} tokens: {remedy}")
    if given and given[0].vocab_size > sizes[0]:
        raise ValueError(
            f"mismatched vocabularies: {given[0].vocab_size} tokens in the tokenizer, "
            f"{sizes[0]} in the model; take both from one checkpoint"
        )
    return sizes[0]


def _known(vocab_size: int, tokenizers: Sequence[Tokenizer | None]) -> jax.Array | None:
    """The tokens of the tokenizers, which are all alike, None if there are no others.

    Embeddings are filled up to a round number of rows, which no text has.
    """
    ids = [own.vocabulary.values() for own in tokenizers if own is not None]
    if not ids or len(set(ids[0])) == vocab_size:
        return None
    return jnp.asarray(np.isin(np.arange(vocab_size), list(ids[0])))


def _encode(
    prompt: str | Sequence[int],
    tokenizer: Tokenizer | None,
    system: str | None,
    chat_template_kwargs: Mapping[str, Any] | None,
    *,
    chat: bool,
    vocab_size: int,
) -> list[int]:
    if isinstance(prompt, str):
        if tokenizer is None:
            raise ValueError("prompts are text: give a tokenizer, or token ids")
        tokens = tokenizer.encode_prompt(
            prompt, chat=chat, system=system, chat_template_kwargs=chat_template_kwargs
        )
    elif system is not None or chat_template_kwargs:
        raise ValueError(
            "prompts are token ids, which system prompts and chat_template_kwargs "
            "cannot change: give text"
        )
    else:
        tokens = [_id(token) for token in prompt]
    if not tokens:
        raise ValueError(f"prompt {quoted(prompt)} is empty: give at least one token")
    if not 0 <= min(tokens) <= max(tokens) < vocab_size:
        raise ValueError(f"prompt {quoted(prompt)} has ids outside [0, {vocab_size})")
    return tokens


def _id(token: Any) -> int:
    if not isinstance(token, bool):
        with contextlib.suppress(TypeError):
            return operator.index(token)
    raise ValueError(f"prompts have {quoted(token)}: give text, or whole numbers")
