"""The receipt of one text: who brought each token and what it cost them."""

import dataclasses
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
import pydantic

from tokenauction_jax import files
from tokenauction_jax.files import StoreError
from tokenauction_jax.outside import OutsideError, shortened
from tokenauction_jax.simulation.frames import by_agent
from tokenauction_jax.studies.provenance import reason

if TYPE_CHECKING:
    import pandas

FORMAT = "tokenauction receipt 1"
# What the rest follows from.
INPUTS = ("scenario", "rule", "share", "setting", "auction")
# Of a token, what each agent has, in the order of tables.
BY_AGENT = {
    "log_p": "log_p",
    "weight": "weights",
    "attribution": "attribution",
    "payment": "payments",
    "expected_payment": "expected_payments",
    "total_payment": "total_payments",
    "total_expected_payment": "total_expected_payments",
}
# Hexadecimal digits: enough to find a slip, which is all that checksums are for.
_DIGITS = 8
_CLOSED = pydantic.ConfigDict(extra="forbid", strict=True)


class ReceiptError(OutsideError):
    """A receipt that cannot be made or read, with what to change in one line."""


def _number(given: Any) -> Any:
    """A number, of which JSON has no infinite ones."""
    return float(given) if given in ("inf", "-inf", "nan") else given


_Number = Annotated[float, pydantic.BeforeValidator(_number)]
_Numbers = tuple[_Number, ...]


@dataclasses.dataclass(frozen=True)
class Token:
    """One token of a text; tuples have a number for each agent.

    Attributes:
      position: In the text, from 0 on.
      token: Its number in the vocabulary.
      piece: The text that it adds, "" if it ended the text; None without a tokenizer.
      log_prob: Its log-probability under the aggregate that it was drawn from.
      log_p: Its log-probability in the distribution that each agent submitted.
      weights: The influence of each agent.
      attribution: The share of its probability that each agent brought.
      payments: What each agent was charged (realised): under a second price the
        critical bid of an agent that won the token, else 0.
      expected_payments: The expectation of that, given the token.
      total_payments: What each agent was charged up to and with this token.
      total_expected_payments: Likewise of the expectations.
    """

    __pydantic_config__ = _CLOSED
    position: int
    token: int
    piece: str | None
    log_prob: _Number
    log_p: _Numbers
    weights: _Numbers
    attribution: _Numbers
    payments: _Numbers
    expected_payments: _Numbers
    total_payments: _Numbers
    total_expected_payments: _Numbers


@dataclasses.dataclass(frozen=True)
class Receipt:
    """What was drawn and paid for one text, and all that it follows from.

    Attributes:
      scenario: The scenario, resolved, as in a manifest; None of a study's cell.
      rule: Which of the scenario's rules.
      share: The first agent's influence, at the scenario's total bid; None for the
        scenario's own bids.
      setting: The cell of a study, resolved; None of a scenario.
      auction: The number of the auction.
      aggregation: The aggregation rule in a few words.
      payment_rule: Likewise.
      seed: Of all randomness.
      num_tokens: The cap on the tokens of a text.
      agents: Names of the agents.
      bids: Of each agent, in money.
      dtype: Of the numbers.
      sampler: How tokens are drawn.
      digests: SHA-256 of the agents' numbers (weights, adapters, prompts as tokens,
        filters; or tables), of the tokenizer's vocabulary, and of files of rules.
      commits: The commit of each model of the hub, by its name.
      environment: Versions, backend, processor and settings of the arithmetic.
      valid: False if the auction became undefined after these tokens.
      text: Without its end token; None without a tokenizer.
      tokens: The tokens.
      checksums: Of each value above, and of each token as a whole.
      format: Of this record.
    """

    __pydantic_config__ = _CLOSED
    scenario: Mapping[str, Any] | None
    rule: str | None
    share: float | None
    setting: Mapping[str, Any] | None
    auction: int
    aggregation: str
    payment_rule: str
    seed: int
    num_tokens: int
    agents: tuple[str, ...]
    bids: _Numbers
    dtype: str
    sampler: str
    digests: Mapping[str, Any]
    commits: Mapping[str, str]
    environment: Mapping[str, Any]
    valid: bool
    text: str | None
    tokens: tuple[Token, ...]
    checksums: Mapping[str, str] = dataclasses.field(default_factory=dict)
    format: Literal["tokenauction receipt 1"] = FORMAT

    def sealed(self) -> Self:
        """The receipt with the checksums of what it says."""
        return dataclasses.replace(self, checksums=_checksums(self))

    def unsealed(self) -> list[str]:
        """What does not have its checksum, such as ``bids.0`` or ``tokens.3``."""
        own = _checksums(self)
        names = dict.fromkeys([*own, *self.checksums])
        return [name for name in names if own.get(name) != self.checksums.get(name)]

    def to_dict(self) -> dict[str, Any]:
        """As plain values, which JSON takes; infinite numbers are strings."""
        return files.finite(dataclasses.asdict(self))

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """The receipt that `to_dict` was called on.

        Raises:
          ReceiptError: If it is none, or one of another version.
        """
        try:
            return cls._validated(json.dumps(files.finite(content)))
        except (TypeError, ValueError) as error:
            raise ReceiptError(_refusal("this", error)) from None

    @classmethod
    def _validated(cls, text: str | bytes) -> Self:
        found = pydantic.TypeAdapter(cls).validate_json(text)
        size = len(found.agents)
        for i, row in enumerate(found.tokens):
            if any(len(getattr(row, name)) != size for name in BY_AGENT.values()):
                raise ValueError(f"tokens.{i} does not have {size} agents")
        if len(found.bids) != size or (found.scenario is None) == (
            found.setting is None
        ):
            raise ValueError("it needs a scenario or a setting, and a bid an agent")
        return found

    def to_pandas(self) -> "pandas.DataFrame":
        """A data frame with a row for each token.

        Its columns are `position`, `token`, `piece` and `log_prob`, and of each agent
        ``log_p/NAME``, ``weight/NAME``, ``attribution/NAME``, ``payment/NAME``,
        ``expected_payment/NAME``, ``total_payment/NAME`` and
        ``total_expected_payment/NAME``.
        """
        import pandas as pd

        names = ("position", "token", "piece", "log_prob")
        columns = {name: [getattr(x, name) for x in self.tokens] for name in names}
        shape = (len(self.tokens), len(self.agents))
        arrays = {
            column: np.array([getattr(x, name) for x in self.tokens]).reshape(shape)
            for column, name in BY_AGENT.items()
        }
        return pd.DataFrame(columns | by_agent(arrays, self.agents))

    def to_html(self) -> str:
        """A page that needs no other file."""
        from tokenauction_jax.receipts import page  # Brings Matplotlib.

        return page.render(self)

    def write(self, path: str | pathlib.Path) -> None:
        """Writes a new file: JSON, which `read` reads, or a page.

        Args:
          path: Ending in ``.json`` or ``.html``.

        Raises:
          ReceiptError: If it ends otherwise.
          StoreError: If it is there already, or cannot be written.
        """
        path = pathlib.Path(path)
        check_suffix(path)
        files.check_new(path)
        try:
            if path.suffix == ".html":
                files.write(path, self.to_html())
            else:
                files.write_json(path, self.to_dict())
        except OSError as error:
            raise StoreError(f"cannot write {path}: {files.reason(error)}") from None


def check_suffix(path: pathlib.Path) -> None:
    """Raises `ReceiptError` unless a receipt can be written under that name."""
    if path.suffix not in (".json", ".html"):
        raise ReceiptError(f"{path} is neither FILE.json nor FILE.html")


def read(path: str | pathlib.Path) -> Receipt:
    """The receipt in a JSON file; whether it is right, `replay` says.

    Raises:
      ReceiptError: If it cannot be read, is no receipt, or one of another version.
    """
    path = pathlib.Path(path)
    shown = shortened(str(path), 80)
    try:
        return Receipt._validated(files.read(path))
    except OSError as error:
        raise ReceiptError(f"cannot read {shown}: {files.reason(error)}") from None
    except ValueError as error:
        raise ReceiptError(_refusal(shown, error)) from None


def _refusal(shown: str, error: Exception) -> str:
    return (
        f"{shown} is no receipt, or one of another version of tokenauction_jax "
        f"({reason(error)})"
    )


def leaves(content: Any, whole: str = "", name: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of nested content by its dotted name.

    Args:
      content: Mappings, lists and values.
      whole: The name of a list whose elements count as values.
      name: Of the content itself.
    """
    inside: Any = ()
    if isinstance(content, Mapping):
        inside = content.items()
    elif isinstance(content, list | tuple):
        inside = enumerate(content)
    if not inside or not content or (whole and name.rpartition(".")[0] == whole):
        yield name, content
        return
    for key, value in inside:
        yield from leaves(value, whole, f"{name}.{key}" if name else str(key))


def _checksums(receipt: Receipt) -> dict[str, str]:
    content = receipt.to_dict()
    del content["checksums"]
    return {name: _checksum(value) for name, value in leaves(content, "tokens")}


def _checksum(value: Any) -> str:
    """The same for 1 and 1.0, of which other programs write one for the other."""
    text = json.dumps(_whole(value), sort_keys=True)
    return files.checksum(text.encode())[:_DIGITS]


def _whole(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _whole(inside) for key, inside in value.items()}
    if isinstance(value, list):
        return [_whole(inside) for inside in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
