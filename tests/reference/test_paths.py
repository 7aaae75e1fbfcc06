"""The enumeration of paths, against that of texts and by hand."""

import numpy as np
import pytest

from reference import bidding, paths

LOG_PROBS = np.log(np.random.default_rng(0).dirichlet(np.ones(3), (2, 3)))
BIDS, VALUES = np.array([1.5, 1.0]), np.array([3.0, 1.0])


@pytest.mark.parametrize("payment", ["pay_your_bid", "second_price"])
def test_constants_are_bids(payment):
    policies = [lambda *_, bid=bid: bid for bid in BIDS]
    found = paths.worth(
        paths.Auction(LOG_PROBS, policies, np.full(2, np.inf), 3.0, 0, 2, payment)
    )
    mechanism = bidding.Mechanism("linear", payment)
    auction = bidding.Auction(mechanism, bidding.Table(LOG_PROBS, 2), BIDS, VALUES)
    wanted = bidding.exact(auction, bidding.utility(0, "total_variation"))
    assert found == pytest.approx(float(wanted), rel=1e-9)


def test_budgets_by_hand():
    """Both bid 1; the first has 1.5 to spend, then it has no say, and nobody bids."""
    with np.errstate(divide="ignore"):
        apart = np.log(np.tile(np.eye(2)[:, None], (1, 2, 1)))
    policies = [lambda *_: 1.0, lambda position, *_: float(position < 3)]
    auction = (apart, policies, np.array([1.5, np.inf]), 2.0, 0, 5)
    # Half of the text twice, nothing of the third token, and then there is no text.
    assert paths.worth(paths.Auction(*auction)) == -1 - 1 - 2 - 1.5
