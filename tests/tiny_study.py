"""Studies that run in a second, for tests of what is done with them."""

import jax

from tokenauction_jax.scenarios import population
from tokenauction_jax.studies import engine, results
from tokenauction_jax.studies.parts import Folder
from tokenauction_jax.studies.plan import make_plan
from tokenauction_jax.studies.reading import read_study

# A block has 1,024 auctions: three blocks, the last one not full.
TEXT = """
name = "tiny"
num_auctions = 2500
num_tokens = 3
keep_auctions = 2500
valuation = "forward_kl"

[agents]
kind = "dirichlet"
num_agents = 2
vocab_size = 5
concentration = 1.0

[factors]
rule.payment = ["second_price", "clarke"]
values.sigma = [0.5, 0.1]
"""


def write(folder, text=TEXT):
    path = folder / "tiny.toml"
    path.write_text(text)
    return path


def run(path, folder, *, blocks_per_chunk=1, stop_after=None, devices=None):
    """Runs a study, interrupted once so many chunks are done."""
    study, folder = read_study(path), Folder(folder)
    cells = population.build([cell.setting for cell in study.cells()])
    plan = make_plan(study, cells, blocks_per_chunk)
    if not folder.path.exists():
        folder.create(study, plan, path)

    def on_progress(progress):
        if stop_after is not None and folder.num_parts() >= stop_after:
            raise KeyboardInterrupt

    # One device unless told: devices without a block of their own repeat one.
    devices = devices or jax.devices()[:1]
    try:
        engine.run(study, folder, cells, plan, on_progress, devices)
    except KeyboardInterrupt:
        return None
    return results.load(folder.path)
