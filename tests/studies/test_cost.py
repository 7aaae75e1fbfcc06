import dataclasses

import numpy as np

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
