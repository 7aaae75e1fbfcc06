"""Rollouts as texts, data frames and labelled arrays."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tokenauction_jax import records

if TYPE_CHECKING:
    import pandas
    import xarray

    from tokenauction_jax.simulation.outcome import Rollout

# What each agent has of a token, and the attribute of a rollout that says it.
_BY_AGENT = {
    "payment": "payments",
    "expected_payment": "expected_payments",
    "bid": "bids",
}


def text_tokens(
    tokens: Iterable[np.ndarray], lengths: Iterable[int], end_tokens: Sequence[int]
) -> list[list[int]]:
    """The tokens of each text, without the one that ended it.

    Args:
      tokens: A row a text, of which only the first `lengths` are its own.
      lengths: Of the texts, the end token included.
      end_tokens: Those that end a text.
    """
    found = []
    for row, length in zip(tokens, lengths, strict=True):
        ended = length and int(row[length - 1]) in end_tokens
        found.append(row[: length - 1 if ended else length].tolist())
    return found


def decode_texts(
    tokenizer: Any, tokens: Iterable[np.ndarray], lengths: Iterable[int]
) -> list[str]:
    """Texts, of the tokens that `text_tokens` keeps."""
    kept = text_tokens(tokens, lengths, tokenizer.end_tokens)
    return [tokenizer.decode(text) for text in kept]


def token_pieces(tokenizer: Any, tokens: np.ndarray) -> list[str]:
    """The text that each token of one text adds; "" for the one that ended it."""
    (text,) = text_tokens([tokens], [len(tokens)], tokenizer.end_tokens)
    return tokenizer.pieces(text) + [""] * (len(tokens) - len(text))


def by_agent(
    columns: Mapping[str, np.ndarray], names: Sequence[Any]
) -> dict[str, np.ndarray]:
    """Arrays `(..., n)` as a column an agent, such as ``payment/Alpha``."""
    return {
        f"{column}/{name}": array[..., i]
        for column, array in columns.items()
        for i, name in enumerate(names)
    }


def to_pandas(
    rollout: Rollout,
    names: Sequence[str] | None,
    tokenizer: Any,
    first_auction: int,
) -> pandas.DataFrame:
    """See `Rollout.to_pandas`."""
    import pandas as pd

    names, numbers = _labels(rollout, names, first_auction)
    mask = np.asarray(rollout.mask)
    auctions, positions = np.nonzero(mask)
    tokens = np.asarray(rollout.tokens)
    content: dict[str, Any] = {
        "auction": numbers[auctions],
        "position": positions,
        "token": tokens[mask],
    }
    if tokenizer is not None:
        texts = zip(tokens, mask, strict=True)
        pieces = (token_pieces(tokenizer, row[own]) for row, own in texts)
        content["piece"] = list(itertools.chain.from_iterable(pieces))
    content["log_prob"] = np.asarray(rollout.log_prob)[mask]
    arrays = {name: array[mask] for name, array in _arrays(rollout).items()}
    content |= by_agent(arrays, names)
    content["valid"] = np.asarray(rollout.valid)[auctions]
    return pd.DataFrame(content)


def to_xarray(
    rollout: Rollout, names: Sequence[str] | None, first_auction: int
) -> xarray.Dataset:
    """See `Rollout.to_xarray`."""
    import xarray as xr

    names, numbers = _labels(rollout, names, first_auction)
    by_token, by_auction = ("auction", "position"), ("auction",)
    variables: dict[str, Any] = {
        "token": (by_token, np.asarray(rollout.tokens)),
        "log_prob": (by_token, np.asarray(rollout.log_prob)),
        "mask": (by_token, np.asarray(rollout.mask)),
        "valid": (by_auction, np.asarray(rollout.valid)),
    }
    if rollout.exhausted is not None:
        variables["exhausted"] = (by_auction, np.asarray(rollout.exhausted))
    for name, array in _arrays(rollout).items():
        variables[name] = ((*by_token, "agent"), array)
    positions = np.arange(rollout.tokens.shape[1])
    labels = {"auction": numbers, "position": positions, "agent": names}
    return xr.Dataset(variables, labels)


def _arrays(rollout: Rollout) -> dict[str, np.ndarray]:
    """What each agent has of each token, `(A, T, n)`."""
    found = {name: getattr(rollout, place) for name, place in _BY_AGENT.items()}
    return {name: np.asarray(x) for name, x in found.items() if x is not None}


def _labels(
    rollout: Rollout, names: Sequence[str] | None, first_auction: int
) -> tuple[list[Any], np.ndarray]:
    """What agents are called, and the numbers of the auctions."""
    shape = rollout.payments.shape
    if len(shape) != 3:
        raise ValueError(
            f"payments has shape {shape}, expected (A, T, n): turn the rollouts of a "
            "`vmap` into frames one by one"
        )
    first = records.check_integer("first_auction", first_auction, 0)
    numbers = first + np.arange(shape[0])
    if names is None:
        return list(range(shape[2])), numbers
    count = 0 if isinstance(names, str) else len(set(names))
    if not count == len(names) == shape[2]:
        raise ValueError(
            f"names must be {shape[2]} different ones, an agent each, got {names!r}"
        )
    return list(names), numbers
