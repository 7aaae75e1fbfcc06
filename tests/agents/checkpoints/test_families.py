"""What configurations of families mean, and which are refused by the name of a key."""

import pytest

from tokenauction_jax.agents.checkpoints.export import raw_config
from tokenauction_jax.agents.checkpoints.families import FAMILIES, read_config
from tokenauction_jax.agents.checkpoints.reading import CheckpointError

SHAPE = {
    "vocab_size": 300,
    "hidden_size": 64,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 80,
    "max_position_embeddings": 128,
}
GPT2 = {"vocab_size": 300, "n_positions": 128, "n_embd": 64, "n_layer": 8, "n_head": 4}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 5000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
}
LONG = {
    "rope_type": "longrope",
    "short_factor": [1.0] * 8,
    "long_factor": [2.0] * 8,
}


def configuration(family, **changes):
    return {"model_type": family} | (GPT2 if family == "gpt2" else SHAPE) | changes


def windows(config):
    return [layer.window for layer in config.layers]


def rotates(config):
    return [layer.rotary is not None for layer in config.layers]


def test_which_layers_have_a_window():
    """As the papers and `transformers` have it where the file does not say."""
    size = {"sliding_window": 16}
    for family, due in {
        "mistral": [16] * 8,
        "phi3": [16] * 8,
        "gemma2": [16, None] * 4,
        "gemma3_text": [16] * 5 + [None] + [16] * 2,
        "olmo3": [16, 16, 16, None] * 2,
        "qwen2": [None] * 8,
    }.items():
        assert windows(read_config(configuration(family, **size))) == due, family
    given = ["full_attention"] * 7 + ["sliding_attention"]
    for family in ("gemma2", "gemma3_text", "olmo3", "mistral", "phi3"):
        config = read_config(configuration(family, layer_types=given, **size))
        assert windows(config) == [None] * 7 + [16], family
    switched = {"use_sliding_window": True, "max_window_layers": 6}
    config = read_config(configuration("qwen3", **size, **switched))
    assert windows(config) == [None] * 6 + [16] * 2
    assert windows(read_config(configuration("mistral", sliding_window=None))) == (
        [None] * 8
    )


def test_which_layers_know_positions():
    every = {"no_rope_layer_interval": 3}
    assert rotates(read_config(configuration("smollm3"))) == ([True] * 3 + [False]) * 2
    due = ([True] * 2 + [False]) * 2 + [True] * 2
    assert rotates(read_config(configuration("smollm3", **every))) == due
    given = {"no_rope_layers": [0, 1] * 4}
    assert rotates(read_config(configuration("smollm3", **given))) == [False, True] * 4


def test_layers_with_a_window_have_a_theta_of_their_own():
    old = {"rope_theta": 1e6, "rope_local_base_freq": 100.0}
    scaled = {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}
    config = read_config(configuration("gemma3_text", head_dim=16, **old, **scaled))
    near, far = config.layers[0].rotary, config.layers[5].rotary
    assert near.frequencies[:2] == pytest.approx([1.0, 100.0 ** (-1 / 8)])
    assert far.frequencies[:2] == pytest.approx([1 / 8, 1e6 ** (-1 / 8) / 8])
    config = read_config(configuration("olmo3", rope_scaling=YARN))
    assert config.layers[0].rotary.scale == 1
    assert config.layers[3].rotary.scale > 1


OLDER = (
    *("rope_theta", "rope_scaling", "rope_local_base_freq", "partial_rotary_factor"),
    *("rotary_pct", "rotary_emb_base"),
)
SCALED = {
    "llama": {"rope_scaling": YARN},
    "mistral": {"rope_theta": 123.0},
    "qwen2": {"rope_parameters": YARN},
    "gemma3_text": {"rope_local_base_freq": 55.0, "rope_theta": 123.0},
    "olmo3": {"rope_scaling": YARN},
    "phi3": {"rope_scaling": LONG, "original_max_position_embeddings": 32},
    "stablelm": {"partial_rotary_factor": 0.5},
    "gpt_neox": {"rotary_pct": 0.5, "rotary_emb_base": 123.0},
}


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "gpt2"])
def test_rotary_settings_are_written_for_newer_and_older_readers(family):
    """Each way alone gives the same model."""
    base = configuration(family, **SCALED.get(family, {"rope_theta": 321.0}))
    config = read_config(base)
    raw = raw_config(config, base)
    assert read_config(raw) == config
    newer = {key: x for key, x in raw.items() if key not in OLDER}
    assert read_config(newer) == config
    for written in (raw, raw_config(config, newer)):
        older = {key: x for key, x in written.items() if key != "rope_parameters"}
        assert read_config(older) == config


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("gemma3_text", {"layer_types": ["full_attention"] * 3}, "layer_types has 3"),
        ("olmo3", {"sliding_window": None}, "no sliding_window"),
        ("gemma2", {"sliding_window": None}, "no sliding_window"),
        ("gemma2", {"sliding_window": 0}, "sliding_window"),
        ("gemma2", {"layer_types": ["chunked_attention"] * 8}, "layer_types"),
        ("gemma2", {"hidden_activation": "relu"}, "hidden_act 'relu'"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "bidirectional"),
        ("qwen3", {"layer_types": ["sliding_attention"] * 8}, "use_sliding_window"),
        ("llama", {"layer_types": ["sliding_attention"] * 8}, "sliding-window"),
        ("smollm3", {"no_rope_layers": [1, 0]}, "no_rope_layers has 2"),
        ("smollm3", {"no_rope_layers": [2] * 8}, "no_rope_layers"),
        ("stablelm", {"qk_layernorm": True}, "qk_layernorm"),
        ("stablelm", {"use_parallel_residual": True}, "use_parallel_residual"),
        ("granite", {"logits_scaling": 0.0}, "logits_scaling"),
        ("granite", {"residual_multiplier": "1"}, "residual_multiplier"),
        ("phi3", {"rope_scaling": LONG | {"long_factor": [1.0]}}, "long_factor has 1"),
        ("phi3", {"rope_scaling": LONG | {"short_factor": [0.0] * 8}}, "short_factor"),
        ("llama", {"rope_scaling": {"rope_type": "yarn"}}, None),
        ("llama", {"rope_scaling": {"rope_type": "dynamic"}}, "scaling 'dynamic'"),
        ("llama", {"rope_scaling": YARN | {"factor": 0.5}}, "factor"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ("stablelm", {"partial_rotary_factor": 0.01}, "a head has size 16"),
        ("gpt_neox", {"hidden_act": "relu"}, "hidden_act 'relu'"),
        ("gpt_neox", {"rotary_pct": 2.0}, "partial_rotary_factor"),
        ("mixtral", {}, "unknown model_type 'mixtral'"),
        ("qwen3_moe", {}, "unknown model_type 'qwen3_moe'"),
        ("mamba", {}, "unknown model_type 'mamba'"),
        ("gemma3", {}, "unknown model_type 'gemma3'"),
    ],
    ids=str,
)
def test_what_the_record_cannot_say_is_refused_by_key(family, changes, message):
    raw = configuration(family, **changes)
    if message is None:  # A scaling that scales nothing.
        assert read_config(raw).layers[0].rotary.scale == 1
        return
    with pytest.raises(CheckpointError, match=message) as caught:
        read_config(raw)
    assert "\n" not in str(caught.value)
