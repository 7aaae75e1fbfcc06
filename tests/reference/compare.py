"""Comparison with an allowed error per entry, and the smooth auctions for gradients."""

import numpy as np

from reference.payments import EPSILON

# The contract ends at 1e-30; float32 flushes numbers below 1e-38 to zero, and so an
# intermediate result of a few orders less than the payment.
SMALLEST = 1e-35


def assert_within(found, expected, tolerance):
    """Fails with the worst entry; infinities must agree exactly, NaN never passes."""
    found, expected = np.asarray(found, float), np.asarray(expected, float)
    assert found.shape == expected.shape
    tolerance = np.broadcast_to(np.asarray(tolerance, float), expected.shape)
    assert not np.isnan(found).any()
    assert not np.isnan(expected).any()
    same = found == expected
    with np.errstate(invalid="ignore"):
        excess = np.where(same, 0, np.abs(found - expected) / tolerance)
    excess = np.where(np.isnan(excess), np.inf, excess)
    worst = np.unravel_index(excess.argmax(), excess.shape)
    assert excess[worst] <= 1, (
        f"{(excess > 1).sum()} of {excess.size} entries, worst {excess[worst]:.3g} "
        f"times the tolerance at {tuple(map(int, worst))}: "
        f"{found[worst]!r}, expected {expected[worst]!r}"
    )


def assert_payments(found, reference):
    """1e-5 relative; where probabilities cancel, 2e-6 of the size of the terms."""
    expected, terms = reference
    assert_within(found, expected, 1e-5 * expected + EPSILON * terms + SMALLEST)


def smooth_auction(seed=3, agents=3, vocabulary=7):
    """One auction without zeros or ties, where every derivative exists."""
    rng = np.random.default_rng(seed)
    log_probs = np.log(rng.dirichlet(np.ones(vocabulary), size=agents))
    return rng.uniform(0.5, 2.0, agents), log_probs


def gradients(function, derivative, *arrays, step=1e-3):
    """Numerical gradients of `function(*arrays)`, one array of slopes per argument."""
    slopes = []
    for which, array in enumerate(arrays):
        array = np.asarray(array)
        slope = np.zeros(array.shape)
        for index in np.ndindex(array.shape):

            def along(x, which=which, array=array, index=index):
                moved = np.array(array, np.longdouble)
                moved[index] = x
                return function(*arrays[:which], moved, *arrays[which + 1 :])

            slope[index] = float(derivative(along, array[index], step))
        slopes.append(slope)
    return slopes
