"""What families of models have in common: keys of a `config.json` and the record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from tokenauction_jax.agents.checkpoints import namings
from tokenauction_jax.agents.checkpoints.reading import (
    Base,
    CheckpointError,
    Epsilon,
    Layers,
    Settings,
    Size,
)
from tokenauction_jax.agents.checkpoints.rotary import read_rotary
from tokenauction_jax.agents.checkpoints.weights import Naming
from tokenauction_jax.agents.models.config import (
    DecoderConfig,
    LayerConfig,
    NormConfig,
    Rotary,
)
from tokenauction_jax.outside import quoted

Kind = Literal["full_attention", "sliding_attention"]
FULL: Kind = "full_attention"
SLIDING: Kind = "sliding_attention"


class Family(Settings):
    """The keys that all families but GPT-2 have, with Llama's defaults."""

    architecture: ClassVar[str]
    naming: ClassVar[Naming] = namings.LLAMA
    default_theta: ClassVar[float] = 10000.0
    # The decoder's names of the activations that the family may have.
    activations: ClassVar[Mapping[str, str]] = {"silu": "silu"}
    # Whether layers may have a window, and a part of each head no rotation.
    windowed: ClassVar[bool] = False
    partly_rotated: ClassVar[bool] = False
    # Whether layers with and without a window have rotary settings of their own.
    rotary_by_kind: ClassVar[bool] = False

    vocab_size: Size
    max_position_embeddings: Size
    hidden_size: Size
    num_hidden_layers: Layers
    num_attention_heads: Size
    num_key_value_heads: Size | None = None
    head_dim: Size | None = None
    intermediate_size: Size
    hidden_act: str = "silu"
    rms_norm_eps: Epsilon = 1e-6
    attention_bias: bool = False
    tie_word_embeddings: bool = False
    # Newer files keep base and scaling together, older ones apart.
    rope_theta: Base | None = None
    rope_parameters: dict[str, Any] | None = None
    rope_scaling: dict[str, Any] | None = None
    partial_rotary_factor: float | None = None
    use_sliding_window: bool | None = None
    sliding_window: Size | None = None
    layer_types: list[Kind] | None = None

    def decoder(self) -> DecoderConfig:
        """The record of the decoder.

        Raises:
          CheckpointError: If the keys contradict one another, or ask for what the
            decoder does not compute.
        """
        # One record for each kind of layer: the same one for all of its kind.
        kinds = self._kinds()
        layers = {kind: self._layer(kind) for kind in dict.fromkeys(kinds)}
        fields = {
            "vocab_size": self.vocab_size,
            "context_length": self.max_position_embeddings,
            "width": self.hidden_size,
            "layers": tuple(layers[kind] for kind in kinds),
            "norm": NormConfig(epsilon=self.rms_norm_eps),
            "tied_embeddings": self.tie_word_embeddings,
        }
        return DecoderConfig(**(fields | self._model()))

    def _model(self) -> dict[str, Any]:
        """The record's fields that are not Llama's."""
        return {}

    def _kinds(self) -> list[str]:
        """The attention of each layer: what the file gives, or what the family has.

        Raises:
          CheckpointError: If windows are not known in this family, or have no size.
        """
        full = self._full_layers()
        kinds = self.layer_types or [FULL if x else SLIDING for x in full]
        if len(kinds) != self.num_hidden_layers:
            raise CheckpointError(
                f"config.json: layer_types has {len(kinds)} layers, num_hidden_layers "
                f"is {self.num_hidden_layers}"
            )
        if SLIDING in kinds and not self.windowed:
            raise CheckpointError(
                "unsupported sliding-window attention in this family: use a checkpoint "
                "with full attention in every layer"
            )
        if SLIDING in kinds and self.sliding_window is None:
            raise CheckpointError(
                "config.json has layers of sliding_attention, but no sliding_window: "
                "get it again"
            )
        return list(kinds)

    def _full_layers(self) -> list[bool]:
        """Which layers have no window, if the file does not say."""
        in_use = self.use_sliding_window and self.sliding_window
        return [not in_use] * self.num_hidden_layers

    def _layer(self, kind: str) -> LayerConfig:
        """The record of the layers of a kind."""
        return self._plain_layer(kind)

    def _plain_layer(self, kind: str, **fields: Any) -> LayerConfig:
        """A layer of Llama, but for these fields."""
        heads, activation = self.num_attention_heads, self._activation()
        if activation not in self.activations:
            known = ", ".join(self.activations)
            raise CheckpointError(
                f"config.json: unsupported hidden_act {quoted(activation)} (known: "
                f"{known})"
            )
        head_dim = self.head_dim or head_dim_of(self.hidden_size, heads)
        shape = {
            "num_heads": heads,
            "num_kv_heads": self.num_key_value_heads or heads,
            "head_dim": head_dim,
            "mlp_width": self.intermediate_size,
            "activation": self.activations[activation],
            "window": self.sliding_window if kind == SLIDING else None,
            "rotary": self._rotary(kind, head_dim),
            "qkv_bias": self.attention_bias,
            "output_bias": self.attention_bias,
        }
        return LayerConfig(**(shape | fields))

    def _activation(self) -> str:
        return self.hidden_act

    def _rotary(self, kind: str, head_dim: int) -> Rotary:
        """The rotary embedding of the layers of a kind."""
        name = "rope_parameters" if self.rope_parameters else "rope_scaling"
        found = self._rotary_settings(kind)
        factor = found.get("partial_rotary_factor")
        if factor not in (None, 1) and not self.partly_rotated:
            raise CheckpointError(
                f"{name}: unsupported partial_rotary_factor {factor!r} in this family"
            )
        return read_rotary(head_dim, found, name)

    def _rotary_settings(self, kind: str) -> dict[str, Any]:
        """The settings of `read_rotary`, whichever way the file gives them."""
        given = self.rope_parameters or self.rope_scaling or {}
        if isinstance(given.get(kind), dict):
            given = given[kind]
        context = {"max_position_embeddings": self.max_position_embeddings}
        defaults = {
            "rope_theta": self.rope_theta or self.default_theta,
            "original_max_position_embeddings": self.max_position_embeddings,
            "partial_rotary_factor": self.partial_rotary_factor,
        }
        own = {key: x for key, x in defaults.items() if x is not None}
        return own | given | context

    def rotary_keys(self) -> dict[str, Any]:
        """The keys of rotary embeddings, in newer files' way and in older ones'."""
        kinds = sorted({kind.partition(", ")[0] for kind in self._kinds()})
        found = {}
        for kind in kinds:
            settings = {"rope_type": "default"} | self._rotary_settings(kind)
            del settings["max_position_embeddings"]
            if settings["rope_type"] in ("default", "linear"):
                del settings["original_max_position_embeddings"]
            found[kind] = settings
        first = found[kinds[0]]  # Full attention, if there is any.
        scaling = {key: x for key, x in first.items() if key != "rope_theta"}
        share = {key: x for key, x in first.items() if key == "partial_rotary_factor"}
        return share | {
            "rope_parameters": found if self.rotary_by_kind else first,
            "rope_theta": first["rope_theta"],
            "rope_scaling": None if first["rope_type"] == "default" else scaling,
        }


def head_dim_of(width: int, heads: int) -> int:
    """The size of a head, if the configuration does not give it."""
    if width % heads:
        raise CheckpointError(
            f"config.json: a width of {width} is no multiple of {heads} attention heads"
        )
    return width // heads
