"""The GPT families: GPT-2, and GPT-NeoX with Pythia; see `families`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from tokenauction_jax.agents.checkpoints import namings
from tokenauction_jax.agents.checkpoints.family import Family, head_dim_of
from tokenauction_jax.agents.checkpoints.reading import (
    Base,
    Epsilon,
    Layers,
    Settings,
    Size,
)
from tokenauction_jax.agents.checkpoints.weights import Naming
from tokenauction_jax.agents.models.config import DecoderConfig, LayerConfig, NormConfig


class GPTNeoX(Family):
    """GPT-NeoX and Pythia: attention and feed-forward block side by side."""

    architecture: ClassVar[str] = "GPTNeoXForCausalLM"
    naming: ClassVar[Naming] = namings.GPT_NEOX
    partly_rotated: ClassVar[bool] = True
    activations: ClassVar[Mapping[str, str]] = {
        "gelu": "gelu",
        "gelu_new": "gelu_tanh",
        "gelu_pytorch_tanh": "gelu_tanh",
    }
    max_position_embeddings: Size = 2048
    hidden_act: str = "gelu"
    layer_norm_eps: Epsilon = 1e-5
    attention_bias: bool = True
    use_parallel_residual: bool = True
    rotary_pct: float = 0.25
    rotary_emb_base: Base = 10000.0

    def _model(self) -> dict[str, Any]:
        return {"norm": NormConfig("layer", self.layer_norm_eps)}

    def _layer(self, kind: str) -> LayerConfig:
        return self._plain_layer(
            kind,
            num_kv_heads=self.num_attention_heads,
            gated=False,
            parallel=self.use_parallel_residual,
            mlp_bias=True,
        )

    def _rotary_settings(self, kind: str) -> dict[str, Any]:
        own = {
            "partial_rotary_factor": self.rotary_pct,
            "rope_theta": self.rope_theta or self.rotary_emb_base,
        }
        return super()._rotary_settings(kind) | own | (self.rope_parameters or {})

    def rotary_keys(self) -> dict[str, Any]:
        """As in other families; older files have names of their own."""
        keys = super().rotary_keys()
        return keys | {
            "rotary_pct": keys["partial_rotary_factor"],
            "rotary_emb_base": keys["rope_theta"],
        }


class GPT2(Settings):
    """GPT-2: learned positions, one map for queries, keys and values."""

    architecture: ClassVar[str] = "GPT2LMHeadModel"
    naming: ClassVar[Naming] = namings.GPT2

    vocab_size: Size
    n_positions: Size
    n_embd: Size
    n_layer: Layers
    n_head: Size
    n_inner: Size | None = None
    layer_norm_epsilon: Epsilon = 1e-5
    tie_word_embeddings: bool = True
    activation_function: Literal["gelu_new", "gelu_pytorch_tanh"] = "gelu_new"
    scale_attn_weights: Literal[True] = True
    scale_attn_by_inverse_layer_idx: Literal[False] = False
    add_cross_attention: Literal[False] = False

    def decoder(self) -> DecoderConfig:
        """The record of the decoder."""
        layer = LayerConfig(
            num_heads=self.n_head,
            num_kv_heads=self.n_head,
            head_dim=head_dim_of(self.n_embd, self.n_head),
            mlp_width=self.n_inner or 4 * self.n_embd,
            activation="gelu_tanh",
            gated=False,
            qkv_bias=True,
            output_bias=True,
            mlp_bias=True,
        )
        return DecoderConfig(
            vocab_size=self.vocab_size,
            context_length=self.n_positions,
            width=self.n_embd,
            layers=(layer,) * self.n_layer,
            norm=NormConfig("layer", self.layer_norm_epsilon),
            learned_positions=True,
            tied_embeddings=self.tie_word_embeddings,
        )
