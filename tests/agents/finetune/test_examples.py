"""What is learnt from a file, in which order, and what is wrong with it."""

import json

import numpy as np
import pytest
from tiny_checkpoint import write_checkpoint

from tokenauction_jax.agents import finetune, load_checkpoint
from tokenauction_jax.agents.finetune.examples import batches_in_order

PAIR = b'{"prompt": "a", "completion": "b"}\n'
PAIRS = [{"prompt": f"ad {i}", "completion": "buy" + "!" * i} for i in range(23)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    return load_checkpoint(write_checkpoint(folder)).tokenizer


@pytest.fixture
def pairs(tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(map(json.dumps, PAIRS)) + "\n\n")
    return file


def test_only_completions_are_learnt(pairs, tokenizer):
    examples = finetune.read_examples(pairs, tokenizer, max_length=64)
    assert len(examples) == len(PAIRS)
    for pair, (tokens, start) in zip(PAIRS, examples, strict=True):
        assert tokenizer.decode(tokens[:start]) == pair["prompt"]
        assert tokenizer.decode(tokens[start:]) == pair["completion"]
        assert tokens[-1] == tokenizer.end_token
    plan = finetune.plan_batches(examples, 4, 0)
    learnt = sum(int(batch.targets.sum()) for batch in batches_in_order(plan))
    assert learnt == sum(len(pair["completion"]) + 1 for pair in PAIRS)


def test_what_others_began_is_given(tmp_path, tokenizer):
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps({"prompt": "a", "begun": "Fly", "completion": " up."}))
    ((tokens, start),) = finetune.read_examples(file, tokenizer, max_length=64)
    assert tokenizer.decode(tokens[:start]) == "aFly"
    assert tokenizer.decode(tokens[start:]) == " up."


def test_prompts_are_those_of_agents(tmp_path, tokenizer):
    """With a chat template, as `from_language_model` renders them."""
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps({"prompt": "a", "completion": "b"}))
    chatty = type(tokenizer)(
        tokenizer._backend,
        end_tokens=tokenizer.end_tokens,
        chat_template="[{{ messages[0].content }}]",
    )
    for chat, due in ((True, "[a]"), (False, "a")):
        ((tokens, start),) = finetune.read_examples(
            file, chatty, max_length=64, chat=chat
        )
        assert chatty.decode(tokens[:start]) == due


def test_every_token_of_a_text_is_learnt_once(tmp_path, tokenizer):
    file = tmp_path / "book.txt"
    file.write_text("abcdefghijklmnopqrstuvwxyz")
    examples = finetune.read_examples(file, tokenizer, max_length=10)
    assert [len(tokens) for tokens, _ in examples] == [10, 10, 9]
    learnt = np.concatenate([tokens[start:] for tokens, start in examples])
    assert tokenizer.decode(learnt) == "bcdefghijklmnopqrstuvwxyz"
    assert learnt[-1] == tokenizer.end_token


def test_an_epoch_sees_every_example_once(pairs, tokenizer):
    examples = finetune.read_examples(pairs, tokenizer, max_length=64)
    plan = finetune.plan_batches(examples, 4, seed=3)
    steps = plan.batches_per_epoch
    orders = []
    for epoch in range(2):
        batches = [finetune.batch_at(plan, epoch * steps + k) for k in range(steps)]
        rows = [tuple(row) for batch in batches for row in batch.tokens if row.any()]
        texts = [tokenizer.decode(row).rstrip("!") for row in rows]
        assert sorted(texts) == sorted(f"ad {i}buy" for i in range(23))
        orders.append(texts)
    assert orders[0] != orders[1]
    again = finetune.batch_at(plan, steps)
    np.testing.assert_array_equal(
        again.tokens,
        finetune.batch_at(finetune.plan_batches(examples, 4, 3), steps).tokens,
    )


def test_split(pairs, tokenizer):
    examples = finetune.read_examples(pairs, tokenizer, max_length=64)
    kept, held = finetune.split(examples, 0.2, seed=0)
    assert (len(kept), len(held)) == (18, 5)
    assert {id(x) for x in kept}.isdisjoint(id(x) for x in held)
    with pytest.raises(finetune.DataError, match="too few to hold any out"):
        finetune.split(examples[:1], 0.2, seed=0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b'{"prompt": "a", "completion": "b"}\n\xff', "line 2 is not UTF-8"),
        (b"\n{", "line 2: not a JSON object"),
        (b"[1]", "line 1: needs .*; prompt is None"),
        (b'{"prompt": "a"}', "line 1: needs .*; completion is None"),
        (b'{"prompt": "a", "completion": " "}', "completion is ' '"),
        (b'{"prompt": 3, "completion": "b"}', "prompt is 3"),
        (b'{"prompt": "a", "completion": "b", "begun": 1}', "begun must be text"),
        (b'{"prompt": "a", "completion": "\\ud800"}', "line 1: completion has half of"),
        (b'{"prompt": "a", "completion": "b", "begun": "\\udfff"}', "begun has half"),
        (b'{"prompt": "a"}\n' + b"[" * 10**5, "needs"),
        (PAIR + b"[" * 10**5, "line 2: nested too deeply"),
        (PAIR + b'{"prompt": ' * 10**5, "line 2: nested too deeply"),
        (PAIR + b"1" * 10**5, "line 2: not a JSON object"),
        (PAIR + b'{"prompt": ' + b"[" * 300 + b"]" * 300 + b"}", "line 2: needs"),
        (PAIR + b'{"prompt": "' + b"x" * 10**5 + b'", "completion": 1}', "line 2: "),
        (
            b'{"prompt": "aa", "completion": "0123456789"}',
            "line 1: a prompt of 2 and a completion of 11 tokens exceed the 12",
        ),
    ],
)
def test_bad_data(tmp_path, tokenizer, content, message):
    file = tmp_path / "bad.jsonl"
    file.write_bytes(content)
    with pytest.raises(finetune.DataError, match=message) as caught:
        finetune.read_examples(file, tokenizer, max_length=12)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.JSONL", "pairs.JsonL"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_json_lines_whatever_the_name_and_the_mark(tmp_path, tokenizer, name, mark):
    (tmp_path / name).write_bytes(mark + PAIR)
    ((tokens, start),) = finetune.read_examples(
        tmp_path / name, tokenizer, max_length=12
    )
    assert tokenizer.decode(tokens) == "ab"
    assert start == 1


def test_a_mark_of_the_byte_order_is_no_token(tmp_path, tokenizer):
    (tmp_path / "book.txt").write_bytes(b"\xef\xbb\xbfab\r\nc")
    (example,) = finetune.read_examples(tmp_path / "book.txt", tokenizer, max_length=12)
    assert tokenizer.decode(example.tokens) == "ab\nc"


def test_missing_file(tmp_path, tokenizer):
    with pytest.raises(finetune.DataError, match="No such file"):
        finetune.read_examples(tmp_path / "none.txt", tokenizer, max_length=12)
