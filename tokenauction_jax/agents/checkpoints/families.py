"""The families of models that the decoder computes.

A family is a class with the keys of its `config.json`, a function from them to the
record of a layer, and a naming of its tensors.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import pydantic

from tokenauction_jax.agents.checkpoints import namings
from tokenauction_jax.agents.checkpoints.family import (
    FULL,
    SLIDING,
    Family,
)
from tokenauction_jax.agents.checkpoints.gpt import GPT2, GPTNeoX
from tokenauction_jax.agents.checkpoints.reading import (
    Base,
    CheckpointError,
    Epsilon,
    Size,
    parse,
)
from tokenauction_jax.agents.checkpoints.weights import Naming
from tokenauction_jax.agents.models.config import (
    DecoderConfig,
    LayerConfig,
    NormConfig,
)

_Factor = Annotated[float, pydantic.Field(gt=0, le=1e6)]


class _Switched(Family):
    """Families whose windows are off unless the file says so."""

    windowed: ClassVar[bool] = True

    def _kinds(self) -> list[str]:
        if SLIDING in (self.layer_types or []) and not self.use_sliding_window:
            raise CheckpointError(
                "config.json: layer_types has sliding_attention, but "
                "use_sliding_window is false"
            )
        return super()._kinds()


class Llama(Family):
    """Llama 2 and 3, SmolLM2, and others of their shape."""

    architecture: ClassVar[str] = "LlamaForCausalLM"
    # What the first files of the family leave out.
    max_position_embeddings: Size = 2048
    mlp_bias: bool = False

    def _layer(self, kind: str) -> LayerConfig:
        return self._plain_layer(kind, mlp_bias=self.mlp_bias)


class Mistral(Family):
    """Mistral, of which all layers have a window, or none."""

    architecture: ClassVar[str] = "MistralForCausalLM"
    windowed: ClassVar[bool] = True
    num_key_value_heads: Size | None = 8
    sliding_window: Size | None = 4096

    def _full_layers(self) -> list[bool]:
        return [self.sliding_window is None] * self.num_hidden_layers

    def _layer(self, kind: str) -> LayerConfig:
        return self._plain_layer(kind, qkv_bias=False, output_bias=False)


class Qwen2(_Switched):
    """Qwen2 and 2.5: biases of queries, keys and values."""

    architecture: ClassVar[str] = "Qwen2ForCausalLM"
    sliding_window: Size | None = 4096
    max_window_layers: int = 28

    def _full_layers(self) -> list[bool]:
        windows = bool(self.use_sliding_window and self.sliding_window)
        first = self.max_window_layers
        return [not windows or i < first for i in range(self.num_hidden_layers)]

    def _layer(self, kind: str) -> LayerConfig:
        return self._plain_layer(kind, qkv_bias=True, output_bias=False)


class Qwen3(Qwen2):
    """Qwen3: norms of each head's queries and keys."""

    architecture: ClassVar[str] = "Qwen3ForCausalLM"

    def _layer(self, kind: str) -> LayerConfig:
        return self._plain_layer(kind, qk_norm="head")


class SmolLM3(_Switched):
    """SmolLM3: every fourth layer does not know positions."""

    architecture: ClassVar[str] = "SmolLM3ForCausalLM"
    default_theta: ClassVar[float] = 2000000.0
    num_key_value_heads: Size | None = 4
    tie_word_embeddings: bool = True
    mlp_bias: bool = False
    no_rope_layers: list[Annotated[int, pydantic.Field(ge=0, le=1)]] | None = None
    no_rope_layer_interval: Size = 4

    def _full_layers(self) -> list[bool]:
        windows = self.use_sliding_window and self.sliding_window
        return [not windows or bool(turned) for turned in self._turned()]

    def _kinds(self) -> list[str]:
        pairs = zip(super()._kinds(), self._turned(), strict=True)
        return [kind if turned else f"{kind}, no positions" for kind, turned in pairs]

    def _layer(self, kind: str) -> LayerConfig:
        attention, _, positions = kind.partition(", ")
        plain = self._plain_layer(attention, mlp_bias=self.mlp_bias)
        return dataclasses.replace(plain, rotary=None) if positions else plain

    def _turned(self) -> list[int]:
        """Which layers rotate queries and keys."""
        count, every = self.num_hidden_layers, self.no_rope_layer_interval
        turned = self.no_rope_layers or [int((i + 1) % every > 0) for i in range(count)]
        if len(turned) != count:
            raise CheckpointError(
                f"config.json: no_rope_layers has {len(turned)} layers, "
                f"num_hidden_layers is {count}"
            )
        return turned


class Olmo2(Family):
    """OLMo 2: norms after each block, and of all queries and all keys at once."""

    architecture: ClassVar[str] = "Olmo2ForCausalLM"
    naming: ClassVar[Naming] = namings.OLMO
    max_position_embeddings: Size = 2048
    rms_norm_eps: Epsilon = 1e-5

    def _layer(self, kind: str) -> LayerConfig:
        return self._plain_layer(kind, norms="after", qk_norm="whole")


class Olmo3(Olmo2):
    """OLMo 3: three layers with a window, then one without, whose angles may scale."""

    architecture: ClassVar[str] = "Olmo3ForCausalLM"
    windowed: ClassVar[bool] = True
    rotary_by_kind: ClassVar[bool] = True
    default_theta: ClassVar[float] = 500000.0
    sliding_window: Size | None = 4096

    def _full_layers(self) -> list[bool]:
        return [(i + 1) % 4 == 0 for i in range(self.num_hidden_layers)]

    def _rotary_settings(self, kind: str) -> dict[str, Any]:
        settings = super()._rotary_settings(kind)
        nested = isinstance((self.rope_parameters or {}).get(kind), dict)
        if kind == FULL or nested:
            return settings
        return settings | {"rope_type": "default"}


class _Gemma(Family):
    """Gemma 2 and 3: norms on both sides, whose weights are kept less 1."""

    naming: ClassVar[Naming] = namings.GEMMA
    activations: ClassVar[Mapping[str, str]] = {"gelu_pytorch_tanh": "gelu_tanh"}
    windowed: ClassVar[bool] = True
    hidden_activation: str = "gelu_pytorch_tanh"
    num_key_value_heads: Size | None = 4
    head_dim: Size | None = 256
    query_pre_attn_scalar: _Factor = 256
    tie_word_embeddings: bool = True
    use_bidirectional_attention: Literal[False] | None = None
    attn_logit_softcapping: _Factor | None = None
    final_logit_softcapping: _Factor | None = None

    def _activation(self) -> str:
        return self.hidden_activation

    def _model(self) -> dict[str, Any]:
        return {
            "norm": NormConfig(epsilon=self.rms_norm_eps, offset=1.0),
            "embedding_scale": self.hidden_size**0.5,
            "logit_cap": self.final_logit_softcapping,
        }

    def _layer(self, kind: str) -> LayerConfig:
        return self._plain_layer(
            kind,
            norms="both",
            score_scale=self.query_pre_attn_scalar**-0.5,
            score_cap=self.attn_logit_softcapping,
        )


class Gemma2(_Gemma):
    """Gemma 2: every other layer has a window; scores and logits are capped."""

    architecture: ClassVar[str] = "Gemma2ForCausalLM"
    max_position_embeddings: Size = 8192
    sliding_window: Size | None = 4096
    attn_logit_softcapping: _Factor | None = 50.0
    final_logit_softcapping: _Factor | None = 30.0

    def _full_layers(self) -> list[bool]:
        return [i % 2 == 1 for i in range(self.num_hidden_layers)]


class Gemma3(_Gemma):
    """Gemma 3's text models: windows in all layers but every sixth, two thetas."""

    architecture: ClassVar[str] = "Gemma3ForCausalLM"
    rotary_by_kind: ClassVar[bool] = True
    default_theta: ClassVar[float] = 1000000.0
    max_position_embeddings: Size = 131072
    sliding_window: Size | None = 4096
    sliding_window_pattern: Size = 6
    rope_local_base_freq: Base = 10000.0

    def _full_layers(self) -> list[bool]:
        every = self.sliding_window_pattern
        return [(i + 1) % every == 0 for i in range(self.num_hidden_layers)]

    def _layer(self, kind: str) -> LayerConfig:
        # `transformers` caps no scores here, whatever the file says.
        layer = super()._layer(kind)
        return dataclasses.replace(layer, qk_norm="head", score_cap=None)

    def _rotary_settings(self, kind: str) -> dict[str, Any]:
        if kind == FULL:
            return super()._rotary_settings(kind)
        found = {"rope_theta": self.rope_local_base_freq, "rope_type": "default"}
        given = (self.rope_parameters or {}).get(kind)
        return super()._rotary_settings(kind) | (given or found)

    def rotary_keys(self) -> dict[str, Any]:
        """As in other families; older files have a key for layers with a window."""
        keys = super().rotary_keys()
        local = keys["rope_parameters"].get(SLIDING)
        return keys | ({"rope_local_base_freq": local["rope_theta"]} if local else {})


class Phi3(Family):
    """Phi-3, 3.5 and 4: fused projections; partial rotary embeddings and LongRoPE."""

    architecture: ClassVar[str] = "Phi3ForCausalLM"
    naming: ClassVar[Naming] = namings.PHI3
    windowed: ClassVar[bool] = True
    partly_rotated: ClassVar[bool] = True
    rms_norm_eps: Epsilon = 1e-5
    original_max_position_embeddings: Size = 4096

    def _full_layers(self) -> list[bool]:
        return [self.sliding_window is None] * self.num_hidden_layers

    def _layer(self, kind: str) -> LayerConfig:
        return self._plain_layer(kind, qkv_bias=False, output_bias=False)

    def _rotary_settings(self, kind: str) -> dict[str, Any]:
        found = super()._rotary_settings(kind)
        named = found.get("rope_type", found.get("type", "default"))
        if named in ("su", "yarn"):  # Its names in the first files.
            named = "longrope"
        original = self.original_max_position_embeddings
        return found | {
            "rope_type": named,
            "original_max_position_embeddings": original,
        }


class Granite(Family):
    """Granite 3: four multipliers."""

    architecture: ClassVar[str] = "GraniteForCausalLM"
    mlp_bias: bool = False
    embedding_multiplier: _Factor = 1.0
    attention_multiplier: _Factor = 1.0
    residual_multiplier: _Factor = 1.0
    logits_scaling: _Factor = 1.0

    def _model(self) -> dict[str, Any]:
        return {
            "embedding_scale": float(self.embedding_multiplier),
            "logit_scale": 1 / self.logits_scaling,
        }

    def _layer(self, kind: str) -> LayerConfig:
        return self._plain_layer(
            kind,
            mlp_bias=self.mlp_bias,
            score_scale=float(self.attention_multiplier),
            residual_scale=float(self.residual_multiplier),
        )


class StableLM(Family):
    """StableLM 2: means are subtracted, a quarter of each head is rotated."""

    architecture: ClassVar[str] = "StableLmForCausalLM"
    naming: ClassVar[Naming] = namings.STABLELM
    partly_rotated: ClassVar[bool] = True
    partial_rotary_factor: float | None = 0.25
    layer_norm_eps: Epsilon = 1e-5
    use_qkv_bias: bool = False
    qk_layernorm: Literal[False] = False
    use_parallel_residual: Literal[False] = False

    def _model(self) -> dict[str, Any]:
        return {"norm": NormConfig("layer", self.layer_norm_eps)}

    def _layer(self, kind: str) -> LayerConfig:
        return self._plain_layer(kind, qkv_bias=self.use_qkv_bias, output_bias=False)


FAMILIES: dict[str, type[Family] | type[GPT2]] = {
    "llama": Llama,
    "mistral": Mistral,
    "qwen2": Qwen2,
    "qwen3": Qwen3,
    "gemma2": Gemma2,
    "gemma3_text": Gemma3,
    "smollm3": SmolLM3,
    "olmo2": Olmo2,
    "olmo3": Olmo3,
    "phi3": Phi3,
    "granite": Granite,
    "stablelm": StableLM,
    "gpt_neox": GPTNeoX,
    "gpt2": GPT2,
}


def family(raw: Mapping[str, Any]) -> type[Family] | type[GPT2]:
    """The family of the contents of a `config.json`.

    Raises:
      CheckpointError: If it is none that the decoder knows, or quantised.
    """
    model_type = raw.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise CheckpointError(f"unknown model_type {model_type!r} (known: {known})")
    if "quantization_config" in raw:
        remedy = "use the unquantised checkpoint or a GGUF file"
        raise CheckpointError(f"quantised safetensors are not supported: {remedy}")
    return FAMILIES[model_type]


def read_config(raw: Mapping[str, Any]) -> DecoderConfig:
    """The decoder's shape from the contents of a `config.json`.

    Raises:
      CheckpointError: If the decoder does not compute the model exactly, or a key is
        missing or makes no sense.
    """
    return parse(family(raw), raw, "config.json").decoder()
