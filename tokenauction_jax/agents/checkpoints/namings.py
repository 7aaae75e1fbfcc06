"""The names that families and formats give to the tensors of a model."""

from __future__ import annotations

import dataclasses

from tokenauction_jax.agents.checkpoints.weights import Naming

_EMBEDDINGS = {
    "model.embed_tokens.weight": "embedding",
    "model.norm.weight": "norm.weight",
    "lm_head.weight": "head",
}
_MAPS = {
    "self_attn.q_proj": "attention.query",
    "self_attn.k_proj": "attention.key",
    "self_attn.v_proj": "attention.value",
    "self_attn.o_proj": "attention.output",
    "self_attn.q_norm": "attention.query_norm",
    "self_attn.k_norm": "attention.key_norm",
    "mlp.gate_proj": "mlp.gate",
    "mlp.up_proj": "mlp.up",
    "mlp.down_proj": "mlp.down",
}
_BEFORE = {"input_layernorm": "attention_norm", "post_attention_layernorm": "mlp_norm"}
_AFTER = {
    "post_attention_layernorm": "attention_post_norm",
    "post_feedforward_layernorm": "mlp_post_norm",
}
_BUFFERS = r".*\.rotary_emb\.inv_freq"

LLAMA = Naming("model.layers.", _MAPS | _BEFORE, _EMBEDDINGS, _BUFFERS)
OLMO = Naming("model.layers.", _MAPS | _AFTER, _EMBEDDINGS, _BUFFERS)
GEMMA = Naming(
    layer="model.layers.",
    modules=_MAPS
    | _AFTER
    | {
        "input_layernorm": "attention_norm",
        "pre_feedforward_layernorm": "mlp_norm",
    },
    others=_EMBEDDINGS,
    ignored=_BUFFERS,
)
STABLELM = dataclasses.replace(
    LLAMA, others=_EMBEDDINGS | {"model.norm.bias": "norm.bias"}
)
_QKV = ("attention.query", "attention.key", "attention.value")
PHI3 = Naming(
    layer="model.layers.",
    modules=_BEFORE
    | {
        "self_attn.qkv_proj": _QKV,
        "self_attn.o_proj": "attention.output",
        "mlp.gate_up_proj": ("mlp.gate", "mlp.up"),
        "mlp.down_proj": "mlp.down",
    },
    others=_EMBEDDINGS,
    ignored=_BUFFERS,
)
GPT_NEOX = Naming(
    layer="gpt_neox.layers.",
    modules=_BEFORE
    | {
        "attention.query_key_value": _QKV,
        "attention.dense": "attention.output",
        "mlp.dense_h_to_4h": "mlp.up",
        "mlp.dense_4h_to_h": "mlp.down",
    },
    others={
        "gpt_neox.embed_in.weight": "embedding",
        "gpt_neox.final_layer_norm.weight": "norm.weight",
        "gpt_neox.final_layer_norm.bias": "norm.bias",
        "embed_out.weight": "head",
    },
    ignored=r".*\.attention\.((masked_)?bias|rotary_emb\.inv_freq)",
    by_head=True,
)
GPT2 = Naming(
    layer="h.",
    modules={
        "ln_1": "attention_norm",
        "attn.c_attn": _QKV,
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
    ignored=r"(transformer\.)?.*\.attn\.(masked_)?bias",
    transposed=True,
    optional="transformer.",
)

_GGUF_MODULES = {
    "attn_norm": "attention_norm",
    "attn_q": "attention.query",
    "attn_k": "attention.key",
    "attn_v": "attention.value",
    "attn_qkv": _QKV,
    "attn_output": "attention.output",
    "attn_q_norm": "attention.query_norm",
    "attn_k_norm": "attention.key_norm",
    "post_attention_norm": "attention_post_norm",
    "ffn_norm": "mlp_norm",
    "ffn_gate": "mlp.gate",
    "ffn_up": "mlp.up",
    "ffn_down": "mlp.down",
    "post_ffw_norm": "mlp_post_norm",
}
GGUF = Naming(
    layer="blk.",
    modules=_GGUF_MODULES,
    others={
        "token_embd.weight": "embedding",
        "position_embd.weight": "positions",
        "output_norm.weight": "norm.weight",
        "output_norm.bias": "norm.bias",
        "output.weight": "head",
    },
    # Parts of the configuration.
    ignored=r"rope_(freqs|factors_long|factors_short)\.weight",
)
GGUF_PHI3 = dataclasses.replace(
    GGUF, modules=_GGUF_MODULES | {"ffn_up": ("mlp.gate", "mlp.up")}
)
