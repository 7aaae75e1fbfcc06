"""Makes the house model from nothing: corpus, tokenizer, training, model card.

    python house_model/build.py

trains on the text that `corpus.py` writes, under 40 minutes on two cores, and puts
weights, tokenizer and model card into the package. An interrupted run goes on where it
was: the same command again.
"""

import argparse
import json
from pathlib import Path

import corpus
import jax
import numpy as np
import report
import rich.progress
import tokenizers
from flax import nnx
from tokenizers import decoders, models, pre_tokenizers, trainers

from tokenauction_jax.agents import finetune
from tokenauction_jax.agents.checkpoints import export
from tokenauction_jax.agents.checkpoints.rotary import read_rotary
from tokenauction_jax.agents.checkpoints.text import Tokenizer
from tokenauction_jax.agents.models.config import DecoderConfig, LayerConfig
from tokenauction_jax.agents.models.decoder import Decoder

HERE = Path(__file__).resolve().parent
PACKAGE = HERE.parent / "tokenauction_jax" / "agents" / "house"
SEED, EXAMPLES, HELDOUT, VOCABULARY, CONTEXT = 0, 160_000, 2_000, 2048, 256
END, USER, ASSISTANT = "<|end|>", "<|user|>", "<|assistant|>"
TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message.role not in ('user', 'assistant') -%}"
    "{{ raise_exception('the house model knows the roles user and assistant only') }}"
    "{%- endif -%}"
    "<|{{ message.role }}|>{{ message.content }}"
    "{%- if message.role == 'assistant' -%}<|end|>{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"
)
CONFIG = DecoderConfig(
    vocab_size=VOCABULARY,
    context_length=CONTEXT,
    width=192,
    layers=4
    * (
        LayerConfig(
            num_heads=6,
            num_kv_heads=3,
            head_dim=32,
            mlp_width=512,
            rotary=read_rotary(32, {"rope_theta": 10000.0}),
        ),
    ),
)
TRAINING = finetune.Training(
    num_steps=4_000,
    batch_size=48,
    learning_rate=3e-3,
    warmup=0.03,
    final_rate=0.05,
    weight_decay=0.1,
    seed=SEED,
)


def write_corpus(folder: Path) -> list[Path]:
    """Training and held-out pairs as JSON lines; the files, in this order."""
    files = []
    for name, seed, count in (
        ("train", SEED, EXAMPLES),
        ("heldout", SEED + 1, HELDOUT),
    ):
        file = folder / f"{name}.jsonl"
        rows = corpus.examples(seed, count, heldout=name == "heldout")
        with file.open("w", encoding="utf-8") as out:
            out.writelines(json.dumps(row) + "\n" for row in rows)
        files.append(file)
    return files


def train_tokenizer(file: Path) -> Tokenizer:
    """Byte-level byte-pair encoding of the corpus, with a chat template."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END, USER, ASSISTANT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    keys = ("prompt", "begun", "completion")
    texts = (row[key] for row in rows for key in keys if key in row)
    backend.train_from_iterator(texts, trainer)
    return Tokenizer(
        backend,
        end_tokens=[0],  # The first special token.
        chat_template=TEMPLATE,
        special_tokens={"eos_token": END},
    )


def main() -> None:
    """Runs all steps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=HERE / "build")
    parser.add_argument("--steps", type=int, default=TRAINING.num_steps)
    parser.add_argument("--out", type=Path, default=PACKAGE)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    files = write_corpus(arguments.work)
    tokenizer = train_tokenizer(files[0])
    examples = [
        finetune.read_examples(file, tokenizer, max_length=CONTEXT) for file in files
    ]
    training = finetune.Training(**(vars(TRAINING) | {"num_steps": arguments.steps}))
    plans = [finetune.plan_batches(x, training.batch_size, SEED) for x in examples]
    start = Decoder(CONFIG, rngs=nnx.Rngs(SEED))
    size = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(start)))
    print(f"{size:,} parameters, {len(examples[0]):,} examples")
    asked = vars(training) | finetune.fingerprint(start, *examples)
    folder = arguments.work / "run"
    with (
        finetune.TrainingRun(folder, asked, resume=folder.exists()) as run,
        rich.progress.Progress(
            *rich.progress.Progress.get_default_columns(),
            rich.progress.TextColumn("{task.fields[state]}"),
        ) as bar,
    ):
        task = bar.add_task("training", total=training.num_steps, state="")

        def show(progress: finetune.Progress) -> None:
            step, loss, rate, perplexity = progress
            if perplexity is not None:
                bar.console.print(f"step {step}: perplexity {perplexity:.4f}")
            state = f"loss {loss:.3f}, {rate:,.0f} tokens/s"
            bar.update(task, completed=step, state=state)

        model, history = finetune.train(
            start,
            plans[0],
            training,
            heldout=plans[1],
            evaluate_every=500,
            restore=run.restore,
            save=run.save,
            save_every=250,
            history=run.history(),
            on_step=show,
        )
    export.write_directory(arguments.out, model, tokenizer, dtype=np.float16)
    report.write_card(arguments.out, size, len(examples[0]), training, history)


if __name__ == "__main__":
    main()
