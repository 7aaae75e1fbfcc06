import numpy as np

from tokenauction_jax.measures import Column
from tokenauction_jax.statistics.moments import Statistics
from tokenauction_jax.studies.plan import Plan, precise_enough
from tokenauction_jax.studies.reading import validate_study

STOP = {"measure": "robustly_gains", "half_width": 0.01}


def test_a_share_that_has_not_varied_yet_is_not_precise():
    """Twenty ones have no variance, and say little."""
    study = validate_study({"stop": STOP, "num_auctions": 100_000}).outline()
    plan = Plan(10, 10, 100_000, [["0", "1", "2"]], [False])

    def stops(num_auctions):
        size = (1, num_auctions, len(plan.columns))
        ones = np.ones(size, np.float32)
        valid, absent = np.ones(size[:2], bool), np.zeros((1, size[2]), bool)
        return precise_enough(study, plan, Statistics.of(ones, valid, absent, []))

    assert Column("robustly_gains", agent=0) in plan.columns
    assert not stops(20)
    assert stops(5000)
