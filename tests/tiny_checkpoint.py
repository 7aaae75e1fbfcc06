"""A random Llama of 10,000 parameters on disk, for tests that need some model."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import gguf
import numpy as np
import tokenizers
from safetensors.numpy import load_file, save_file
from tokenizers import decoders, models, pre_tokenizers

WIDTH, HEADS, LAYERS, HIDDEN = 16, 2, 2, 24
CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": WIDTH,
    "intermediate_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
}


def write_checkpoint(folder: pathlib.Path, seed: int = 0, extra: str = "") -> str:
    """Writes a Hugging Face directory and returns its path.

    The tokenizer knows single bytes, an end token, and whatever `extra` adds.
    """
    folder.mkdir(parents=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<end>", *alphabet])}
    if extra:
        vocabulary[extra] = len(vocabulary)
    tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<end>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<end>"}))
    config = CONFIG | {"vocab_size": len(vocabulary), "eos_token_id": 0}
    (folder / "config.json").write_text(json.dumps(config))
    rng = np.random.default_rng(seed)
    shapes = {"model.embed_tokens.weight": (len(vocabulary), WIDTH)}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        for name in "qkvo":
            shapes[f"{prefix}self_attn.{name}_proj.weight"] = (WIDTH, WIDTH)
        for name in ("gate", "up"):
            shapes[f"{prefix}mlp.{name}_proj.weight"] = (HIDDEN, WIDTH)
        shapes[f"{prefix}mlp.down_proj.weight"] = (WIDTH, HIDDEN)
        for name in ("input", "post_attention"):
            shapes[f"{prefix}{name}_layernorm.weight"] = (WIDTH,)
    shapes["model.norm.weight"] = (WIDTH,)
    weights = {
        name: rng.normal(size=shape).astype(np.float32)
        for name, shape in shapes.items()
    }
    save_file(weights, folder / "model.safetensors")
    return str(folder)


def write_gguf(
    path: pathlib.Path, folder: pathlib.Path, changes: Mapping[str, Any] | None = None
) -> None:
    """Writes the checkpoint in a folder as a GGUF file, some metadata changed.

    Those that are None are left out.
    """
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    tokens[-1] = "ĠĠ"  # The writer takes no empty list of merges.
    metadata = {
        "llama.context_length": CONFIG["max_position_embeddings"],
        "llama.embedding_length": WIDTH,
        "llama.block_count": LAYERS,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": HEADS,
        "llama.feed_forward_length": HIDDEN,
        "llama.attention.layer_norm_rms_epsilon": CONFIG["rms_norm_eps"],
        "llama.rope.freq_base": CONFIG["rope_theta"],
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3, *[1] * (len(vocabulary) - 1)],
        "tokenizer.ggml.merges": ["Ġ Ġ"],
        "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.chat_template": "{{ messages[0].content }}",
    }
    changes = dict(changes or {})
    writer = gguf.GGUFWriter(path, changes.pop("general.architecture", "llama"))
    for key, value in (metadata | changes).items():
        if value is not None:
            writer.add_key_value(key, value, _kind(value))
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, LAYERS)
    for name, array in load_file(folder / "model.safetensors").items():
        writer.add_tensor(names.get_name(name, (".weight",)), array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _kind(value: Any) -> gguf.GGUFValueType:
    if isinstance(value, int) and not isinstance(value, bool):
        return gguf.GGUFValueType.UINT32 if value >= 0 else gguf.GGUFValueType.INT32
    return gguf.GGUFValueType.get_type(value)
