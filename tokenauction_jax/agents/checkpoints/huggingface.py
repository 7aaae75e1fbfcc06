"""Checkpoints as Hugging Face directories: configuration, safetensors and tokenizer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

from tokenauction_jax.agents.checkpoints.reading import (
    Base,
    CheckpointError,
    Epsilon,
    Settings,
    Size,
    TokenId,
    check_files,
    is_file,
    parse,
    read_json,
    read_text,
)
from tokenauction_jax.agents.checkpoints.rotary import rotary_frequencies
from tokenauction_jax.agents.checkpoints.text import Tokenizer
from tokenauction_jax.agents.checkpoints.tokenizer_files import from_directory
from tokenauction_jax.agents.checkpoints.weights import Naming, Tensor, named_tensors
from tokenauction_jax.agents.models.decoder import DecoderConfig

# The files of a repository that are needed, as glob patterns.
FILES: tuple[str, ...] = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*.safetensors",
)

_FLOATS = ("F64", "F32", "F16", "BF16")

LLAMA = Naming(
    layer="model.layers.",
    modules={
        "input_layernorm": "attention_norm",
        "self_attn.q_proj": "attention.query",
        "self_attn.k_proj": "attention.key",
        "self_attn.v_proj": "attention.value",
        "self_attn.o_proj": "attention.output",
        "self_attn.q_norm": "attention.query_norm",
        "self_attn.k_norm": "attention.key_norm",
        "post_attention_layernorm": "mlp_norm",
        "mlp.gate_proj": "mlp.gate",
        "mlp.up_proj": "mlp.up",
        "mlp.down_proj": "mlp.down",
    },
    others={
        "model.embed_tokens.weight": "embedding",
        "model.norm.weight": "norm.weight",
        "lm_head.weight": "head",
    },
    ignored=r".*\.rotary_emb\.inv_freq",
)

GPT2 = Naming(
    layer="h.",
    modules={
        "ln_1": "attention_norm",
        "attn.c_attn": "attention.qkv",
        "attn.c_proj": "attention.output",
        "ln_2": "mlp_norm",
        "mlp.c_fc": "mlp.up",
        "mlp.c_proj": "mlp.down",
    },
    others={
        "wte.weight": "embedding",
        "wpe.weight": "positions",
        "ln_f.weight": "norm.weight",
        "ln_f.bias": "norm.bias",
        "lm_head.weight": "head",
    },
    ignored=r".*\.attn\.(masked_)?bias",
)


class _Llama(Settings):
    """Llama, Qwen2 and Qwen3, which differ in biases and in norms of the heads."""

    model_type: str
    vocab_size: Size
    max_position_embeddings: Size = 2048  # What files of the first Llama leave out.
    hidden_size: Size
    num_hidden_layers: Size
    num_attention_heads: Size
    num_key_value_heads: Size | None = None
    head_dim: Size | None = None
    intermediate_size: Size
    hidden_act: Literal["silu"] = "silu"
    rms_norm_eps: Epsilon = 1e-6
    attention_bias: bool = False
    mlp_bias: bool = False
    tie_word_embeddings: bool = False
    # Newer files keep base and scaling together, older ones apart.
    rope_theta: Base | None = 10000.0
    rope_parameters: dict[str, Any] | None = None
    rope_scaling: dict[str, Any] | None = None
    use_sliding_window: bool | None = False
    sliding_window: int | None = None
    max_window_layers: int | None = 0
    layer_types: list[str] | None = None

    def decoder(self) -> DecoderConfig:
        self._refuse_sliding_window()
        width, heads = self.hidden_size, self.num_attention_heads
        head_dim = self.head_dim or _head_dim(width, heads)
        qwen2 = self.model_type == "qwen2"
        return DecoderConfig(
            vocab_size=self.vocab_size,
            context_length=self.max_position_embeddings,
            width=width,
            num_layers=self.num_hidden_layers,
            num_heads=heads,
            num_kv_heads=self.num_key_value_heads or heads,
            head_dim=head_dim,
            mlp_width=self.intermediate_size,
            norm_epsilon=self.rms_norm_eps,
            frequencies=rotary_frequencies(
                self.rope_theta or 10000.0,
                head_dim,
                self.rope_parameters or self.rope_scaling,
                "rope_parameters" if self.rope_parameters else "rope_scaling",
            ),
            qkv_bias=qwen2 or self.attention_bias,
            output_bias=not qwen2 and self.attention_bias,
            mlp_bias=self.model_type == "llama" and self.mlp_bias,
            qk_norm=self.model_type == "qwen3",
            tied_embeddings=self.tie_word_embeddings,
        )

    def _refuse_sliding_window(self) -> None:
        active = self.use_sliding_window and self.sliding_window
        active = active and (self.max_window_layers or 0) < self.num_hidden_layers
        kinds = self.layer_types or ["full_attention"]
        if active or set(kinds) != {"full_attention"}:
            remedy = "use a checkpoint with full attention in every layer"
            raise CheckpointError(f"unsupported sliding-window attention: {remedy}")


class _GPT2(Settings):
    vocab_size: Size
    n_positions: Size
    n_embd: Size
    n_layer: Size
    n_head: Size
    n_inner: Size | None = None
    layer_norm_epsilon: Epsilon = 1e-5
    tie_word_embeddings: bool = True
    activation_function: Literal["gelu_new", "gelu_pytorch_tanh"] = "gelu_new"
    scale_attn_weights: Literal[True] = True
    scale_attn_by_inverse_layer_idx: Literal[False] = False
    add_cross_attention: Literal[False] = False

    def decoder(self) -> DecoderConfig:
        return DecoderConfig(
            vocab_size=self.vocab_size,
            context_length=self.n_positions,
            width=self.n_embd,
            num_layers=self.n_layer,
            num_heads=self.n_head,
            num_kv_heads=self.n_head,
            head_dim=_head_dim(self.n_embd, self.n_head),
            mlp_width=self.n_inner or 4 * self.n_embd,
            norm="layer",
            norm_epsilon=self.layer_norm_epsilon,
            activation="gelu",
            qkv_bias=True,
            output_bias=True,
            mlp_bias=True,
            tied_embeddings=self.tie_word_embeddings,
        )


class _Ends(Settings):
    """The tokens that end a text, in both configurations."""

    eos_token_id: TokenId | list[TokenId] | None = None

    def ids(self) -> list[int]:
        value = self.eos_token_id
        return value if isinstance(value, list) else [] if value is None else [value]


ARCHITECTURES: dict[str, type[_Llama] | type[_GPT2]] = {
    "llama": _Llama,
    "qwen2": _Llama,
    "qwen3": _Llama,
    "gpt2": _GPT2,
}


def read_config(raw: Mapping[str, Any]) -> DecoderConfig:
    """The decoder's shape from the contents of a `config.json`.

    Raises:
      CheckpointError: If the decoder does not compute the model exactly, or a key is
        missing or makes no sense.
    """
    model_type = raw.get("model_type")
    if not isinstance(model_type, str) or model_type not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise CheckpointError(f"unknown model_type {model_type!r} (known: {known})")
    if "quantization_config" in raw:
        remedy = "use the unquantised checkpoint or a GGUF file"
        raise CheckpointError(f"quantised safetensors are not supported: {remedy}")
    return parse(ARCHITECTURES[model_type], raw, "config.json").decoder()


def _head_dim(width: int, heads: int) -> int:
    if width % heads:
        raise CheckpointError(
            f"config.json: a width of {width} is no multiple of {heads} attention heads"
        )
    return width // heads


def weight_files(directory: Path) -> list[Path]:
    """The files that hold the weights, whether they exist or not."""
    index = directory / "model.safetensors.index.json"
    if (directory / "model.safetensors").exists() or not index.exists():
        return [directory / "model.safetensors"]
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise CheckpointError(f"{index.name} has no weight_map: get it again")
    for name in names.values():
        if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*", name):
            raise CheckpointError(
                f"{index.name}: weight_map has {name!r}: give the name of a file beside"
            )
    return [directory / name for name in sorted(set(names.values()))]


def _needed(directory: Path) -> list[Path]:
    return [
        directory / "config.json",
        directory / "tokenizer.json",
        *weight_files(directory),
    ]


def missing_files(directory: Path) -> list[str]:
    """The names of needed files that a directory lacks."""
    return [path.name for path in _needed(directory) if not is_file(path)]


def read_directory(
    directory: Path,
) -> tuple[DecoderConfig, dict[str, Tensor], Tokenizer]:
    """Configuration, tensors by the decoder's names, and tokenizer of a directory.

    Raises:
      CheckpointError: If a file is missing, damaged or not supported.
    """
    _refuse_pickles(directory)
    check_files(*_needed(directory))
    raw = read_json(directory / "config.json")
    config = read_config(raw)
    tensors = {}
    for path in weight_files(directory):
        tensors |= _read_safetensors(path, raw["model_type"] == "gpt2")
    if config.tied_embeddings:
        tensors.pop("head", None)  # A second copy of the embedding.
    return config, tensors, _read_tokenizer(directory, raw)


def _refuse_pickles(directory: Path) -> None:
    """Says what to do with weights that only run code can read."""
    if any(path.exists() for path in weight_files(directory)):
        return
    names = [path.name for path in sorted(directory.glob("pytorch_model*.bin"))]
    if names:
        raise CheckpointError(
            f"the weights are in {names[0]}, a format that can run code: convert them "
            "with transformers, AutoModelForCausalLM.from_pretrained(folder)"
            ".save_pretrained(folder, safe_serialization=True)"
        )


class Safetensors:
    """A file of tensors, of which only the names and shapes are read at first.

    Attributes:
      names: The names of the tensors.
    """

    def __init__(self, path: Path):
        check_files(path)
        try:
            self._file = safe_open(path, framework="np")
        except (SafetensorError, OSError) as error:
            remedy = "it is damaged or not a safetensors file, get it again"
            raise CheckpointError(f"{path.name}: {error}: {remedy}") from None
        self.names: list[str] = list(self._file.keys())

    def tensor(self, name: str) -> Tensor:
        """One of the tensors.

        Raises:
          CheckpointError: If its numbers are not floats.
        """
        entry = self._file.get_slice(name)
        if entry.get_dtype() not in _FLOATS:
            raise CheckpointError(
                f"tensor {name[:80]} has the type {entry.get_dtype()}: it must be one "
                f"of {', '.join(_FLOATS)}"
            )
        shape = tuple(entry.get_shape())
        return Tensor(name, shape, lambda: self._file.get_tensor(name))


def _read_safetensors(path: Path, gpt2: bool) -> dict[str, Tensor]:
    file = Safetensors(path)
    if not gpt2:
        return named_tensors(LLAMA, file.names, file.tensor)
    names = {name.removeprefix("transformer."): name for name in file.names}
    return named_tensors(
        GPT2, list(names), lambda name: file.tensor(names[name]), _transposed_in_layers
    )


def _transposed_in_layers(parameter: str, tensor: Tensor) -> Tensor:
    """GPT-2 stores the matrices of its layers as `(inputs, outputs)`."""
    if not parameter.startswith("layers."):
        return tensor
    return Tensor(tensor.name, tensor.shape[::-1], lambda: tensor.read().T)


def _read_tokenizer(directory: Path, raw: Mapping[str, Any]) -> Tokenizer:
    generation = directory / "generation_config.json"
    ends = parse(_Ends, read_json(generation, optional=True), generation.name).ids()
    template = directory / "chat_template.jinja"
    return from_directory(
        read_text(directory / "tokenizer.json"),
        read_json(directory / "tokenizer_config.json", optional=True),
        read_text(template) if template.exists() else None,
        [*ends, *parse(_Ends, raw, "config.json").ids()],
        added_tokens=read_json(directory / "added_tokens.json", optional=True),
        special_tokens_map=read_json(
            directory / "special_tokens_map.json", optional=True
        ),
    )
