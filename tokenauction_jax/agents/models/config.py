"""The shape of a decoder: a record of the whole, and one of each layer."""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Rotary:
    """Rotary position embeddings of queries and keys (RoPE, arXiv 2104.09864).

    Attributes:
      frequencies: The angle per position of each pair of numbers, one of the first half
        of what is rotated and one of its second half. What is left of a head stays.
      scale: What rotated queries and keys are multiplied with.
      long_frequencies: Those for texts beyond `long_beyond` tokens, prompt included;
        None if all texts have the same.
      long_beyond: See `long_frequencies`.
    """

    frequencies: tuple[float, ...]
    scale: float = 1.0
    long_frequencies: tuple[float, ...] | None = None
    long_beyond: int = 0


@dataclasses.dataclass(frozen=True)
class LayerConfig:
    """The shape of one layer.

    Attributes:
      num_heads: Query heads; a multiple of `num_kv_heads`.
      num_kv_heads: Key and value heads, each serving a group of query heads.
      head_dim: The size of one head.
      mlp_width: The hidden size of the feed-forward block.
      window: How many tokens attention reaches back to, the present one included; None
        for all.
      rotary: None for a layer that does not know positions.
      norms: Whether attention and feed-forward block are normalised before, after or
        on both sides.
      qk_norm: Whether queries and keys are normalised, each head or all heads at once.
      activation: Of the feed-forward block; `"gelu_tanh"` is an approximation.
      gated: Whether the activation is multiplied with a second projection.
      parallel: Whether attention and feed-forward block read the same residual stream.
      score_scale: What scores are multiplied with; None for ``head_dim^-1/2``.
      score_cap: ``c`` in ``c tanh(score / c)``, None for none.
      residual_scale: What is added to the residual stream is multiplied with this.
      qkv_bias: Whether queries, keys and values have biases.
      output_bias: Whether the output projection of attention has a bias.
      mlp_bias: Whether the feed-forward projections have biases.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_width: int
    window: int | None = None
    rotary: Rotary | None = None
    norms: Literal["before", "after", "both"] = "before"
    qk_norm: Literal["head", "whole"] | None = None
    activation: Literal["silu", "gelu", "gelu_tanh"] = "silu"
    gated: bool = True
    parallel: bool = False
    score_scale: float | None = None
    score_cap: float | None = None
    residual_scale: float = 1.0
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False


@dataclasses.dataclass(frozen=True)
class NormConfig:
    """How a model normalises.

    Attributes:
      kind: By the root mean square, or by mean and variance.
      epsilon: Added to the variance.
      offset: Added to the weights, which are kept without it.
    """

    kind: Literal["rms", "layer"] = "rms"
    epsilon: float = 1e-5
    offset: float = 0.0


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """The shape of a decoder; hashable, so it is static under `jit`.

    Attributes:
      vocab_size: ``V``, the number of tokens.
      context_length: The most tokens of prompt and text together.
      width: The size of the residual stream.
      layers: The layers, from the first to the last.
      norm: Of all layers and of the head.
      learned_positions: Whether an embedding of positions is added to that of tokens.
      embedding_scale: What embeddings of tokens are multiplied with.
      logit_scale: What logits are multiplied with.
      logit_cap: ``c`` in ``c tanh(logit / c)``, None for none.
      tied_embeddings: Whether the embedding is also the output layer.
    """

    vocab_size: int
    context_length: int
    width: int
    layers: tuple[LayerConfig, ...]
    norm: NormConfig = NormConfig()
    learned_positions: bool = False
    embedding_scale: float = 1.0
    logit_scale: float = 1.0
    logit_cap: float | None = None
    tied_embeddings: bool = True
