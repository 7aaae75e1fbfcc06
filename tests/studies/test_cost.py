import dataclasses
import time

import numpy as np
import pytest

from tokenauction_jax.scenarios import population
from tokenauction_jax.studies import cost
from tokenauction_jax.studies.plan import make_plan
from tokenauction_jax.studies.reading import validate_study


def memory(num_cells, partial=False):
    study = validate_study({"num_auctions": 64, "agents": {"num_agents": 2}})
    built = population.build([cell.setting for cell in study.cells()])
    plan = make_plan(study, built)
    agents, texts = list(plan.agents) * num_cells, list(plan.texts) * num_cells
    plan = dataclasses.replace(plan, agents=agents, texts=texts)
    seen = np.full(len(plan.columns), partial)
    block = cost._Block(0.0, 0.0, 0.0, seen)
    return cost._memory(built * num_cells, plan, [block] * num_cells), plan


def judged(content):
    study = validate_study(content)
    cells = population.build([cell.setting for cell in study.cells()])
    return cost.estimate(study, cells, make_plan(study, cells))


def test_programs_of_many_agents_are_judged_by_their_sizes():
    """Compiling the parts of all pairs would take minutes."""
    start = time.perf_counter()
    found = [judged({"agents": {"num_agents": n}}) for n in (32, 64)]
    assert time.perf_counter() - start < 10
    assert [x.programs for x in found] == [1, 1]
    assert [x.tried for x in found] == [0, 0]
    assert 0 < found[0].seconds < found[1].seconds
    # But for what does not fill a chunk.
    assert 0 < found[0].memory < 1.01 * found[1].memory


def test_programs_after_the_first_seconds_are_judged_like_those(monkeypatch):
    monkeypatch.setattr(cost, "_TRYING", 0.0)
    factors = {"agents.vocab_size": [4, 4000], "seed": list(range(500))}
    start = time.perf_counter()
    found = judged({"num_tokens": 2, "factors": factors})
    assert time.perf_counter() - start < 60
    assert (found.programs, found.tried) == (2, 1)
    small, large = found.seconds_per_auction[0], found.seconds_per_auction[-1]
    np.testing.assert_allclose(large / small, 1000)


@pytest.mark.slow
def test_long_texts_are_timed_in_part(monkeypatch):
    content = {"agents": {"num_agents": 2, "vocab_size": 4}, "num_tokens": 512}
    whole = judged(content)
    monkeypatch.setattr(cost, "_MOST_TRIED", 1024 * 2 * 4 * 64)
    part = judged(content)
    assert part.tried == 1
    ratio = part.seconds_per_auction[0] / whole.seconds_per_auction[0]
    assert 0.2 < ratio < 5


def test_memory_counts_the_moments_of_all_pairs():
    """The product of two cells for each measure, of the chunk and in its file."""
    few, _ = memory(1)
    many, plan = memory(1000)
    numbers = 999 * 64 * len(plan.columns) * 16
    pairs = (1000 * 1001 / 2 - 1) * len(plan.columns) * 16
    np.testing.assert_allclose(many - few, numbers + pairs, rtol=1e-6)
    # Where measures are missing in some auctions, five numbers more a pair.
    np.testing.assert_allclose(
        memory(1000, partial=True)[0] - few - numbers, 6 * pairs, 1e-5
    )
