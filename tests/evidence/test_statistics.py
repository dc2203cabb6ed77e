"""Intervals: against SciPy where it has them, by simulated coverage where it has not."""

import numpy as np
import pytest
import scipy.special
import scipy.stats

from qsnet_jax.evidence import statistics

DRAWS = 20_000  # of a simulation; the standard error of its shares is .15 %


def alone(scores):
    """A column whose values are groups of their own."""
    return np.asarray(scores, np.float64), np.arange(len(scores))


def test_of_independent_values_it_is_students():
    """Interval and p-value of SciPy's t-test; none of a single value."""
    values = np.random.default_rng(0).normal(0.4, 1.0, 12)
    expected = scipy.stats.ttest_1samp(values, 0)
    found = statistics.over_values(values)
    for level in (0.95, 0.99):
        assert found.interval(level) == pytest.approx(list(expected.confidence_interval(level)))
    assert found.p == pytest.approx(expected.pvalue)
    assert statistics.over_values([1.0]) is None and statistics.over_values([]) is None
    assert statistics.Estimate(0.5, 0.0, 2.0).p == 0 and statistics.Estimate(0.0, 0.0, 2.0).p == 1


def test_images_of_one_scene_are_no_independent_evidence():
    """Fourteen equal copies of each value leave the interval as wide as it was."""
    values = np.random.default_rng(0).normal(30.0, 3.0, 50)
    copies = np.repeat(values, 14), np.repeat(np.arange(50), 14)
    assert statistics.interval([copies]) == pytest.approx(statistics.interval([alone(values)]))
    assert statistics.interval([(np.ones(5), np.zeros(5))]) is None  # one group


def test_ssim_ends_at_one():
    """Nothing is promised beyond the best score."""
    low, high = statistics.interval([alone([0.99, 0.999, 0.9])], most=1.0)
    assert low < 0.9 and high == 1.0


def test_the_mean_of_sets_counts_each_set_once():
    """Two sets of different size weigh the same, in the mean and in the interval."""
    few, many = alone([20.0, 22.0]), alone(np.full(100, 30.0))
    assert statistics.mean([few, many]) == pytest.approx(25.5)
    half = 12.7062 / 2  # Student's t of one degree of freedom, and half the standard error of 21 +- 1
    assert statistics.interval([few, many]) == pytest.approx([25.5 - half, 25.5 + half])
    assert statistics.interval([few, alone([1.0])]) is None and statistics.mean([few, alone([])]) is None


def coverage(sizes, between, within):
    """Share of simulated intervals that hold the true mean, 0: groups that differ, and images within them."""
    generator, sizes = np.random.default_rng(len(sizes)), np.array(sizes)
    members = np.repeat(np.arange(len(sizes)), sizes)
    values = between * generator.normal(size=(DRAWS, len(sizes)))[:, members]
    values = values + within * generator.normal(size=(DRAWS, members.size))
    means, errors, freedom = statistics.estimates(values, members)
    return np.mean(np.abs(means) <= scipy.special.stdtrit(freedom, 0.975) * errors)


@pytest.mark.parametrize('count', [5, 10, 20, 40])
@pytest.mark.parametrize('pattern', [(1,), (4,), (14, 14, 14, 7), (1, 2, 3, 4, 5), (6, 2, 4)])
def test_coverage(count, pattern):
    """94 to 96 % from 5 to 40 groups of equal and of unequal sizes."""
    sizes = [pattern[number % len(pattern)] for number in range(count)]
    for between, within in ((1.0, 0.3), (1.0, 1.0)):
        assert 0.94 < coverage(sizes, between, within) < 0.96


@pytest.mark.parametrize('sizes', [(20, 1, 1, 1, 1), (14, 1, 1, 1), (30, *[1] * 9)])
def test_coverage_where_one_group_holds_more_than_half(sizes):
    """It is less then, as the module says."""
    for between, within in ((1.0, 1.0), (0.5, 1.0)):
        assert 0.83 < coverage(sizes, between, within) < 0.92


@pytest.mark.parametrize('freedom', [2, 9, 34])
def test_the_smallest_effect_of_one_error_is_that_of_noncentral_t(freedom):
    found = statistics.detectable([statistics.Estimate(0.0, 2.0, freedom)])
    critical = scipy.special.stdtrit(freedom, 0.975)
    assert found == pytest.approx(2 * scipy.special.nctdtrinc(freedom, 0.2, critical), rel=0.03)
    assert statistics.detectable([statistics.Estimate(0.0, 0.0, freedom)]) == 0


def test_levels_of_holm_decide_as_holm_does():
    """By hand, and on random values: an interval at its level leaves 0 out where the procedure rejects."""
    assert statistics.holm([0.001, 0.04, 0.02, 0.5]) == pytest.approx([1 - 0.05 / m for m in (4, 3, 3, 3)])
    assert statistics.holm([0.01]) == pytest.approx([0.95]) and statistics.holm([]) == []
    generator = np.random.default_rng(2)
    for _ in range(50):
        estimates = [statistics.over_values(generator.normal(0.8, 1, 8)) for _ in range(6)]
        values = [each.p for each in estimates]
        order, rejected = np.argsort(values), np.zeros(6, bool)
        for rank, index in enumerate(order):
            if values[index] >= 0.05 / (6 - rank):
                break
            rejected[index] = True
        for each, level, is_rejected in zip(estimates, statistics.holm(values), rejected, strict=True):
            low, high = each.interval(level)
            assert (low > 0 or high < 0) == is_rejected


def test_shares():
    """Close to Wilson's interval where images are alone, wider where they share scenes, and inside 0 to 1."""
    hits = np.array([1] * 29 + [0] * 4)
    expected = scipy.stats.binomtest(29, 33).proportion_ci(method='wilson')
    assert statistics.share_interval(hits, np.arange(33)) == pytest.approx([expected.low, expected.high], abs=0.01)
    low, high = statistics.share_interval(np.repeat(hits, 5), np.repeat(np.arange(33), 5))
    assert (low, high) == pytest.approx(statistics.share_interval(hits, np.arange(33)), abs=0.01)
    low, high = statistics.share_interval(np.ones(66), np.repeat(np.arange(33), 2))
    assert [low, high] == pytest.approx(statistics.share_interval(np.ones(33), np.arange(33)))
    assert 0.85 < low < 0.95 and high == 1.0


def test_pooled_shares_weigh_as_told():
    """One set is left as it is; of two, the interval shrinks with the weight of each."""
    one, other = (0.9, [0.8, 0.95]), (0.5, [0.3, 0.7])
    assert statistics.pooled_share([(1.0, *one)]) == (0.9, pytest.approx([0.8, 0.95]))
    share, ends = statistics.pooled_share([(0.1, *one), (0.9, *other)])
    assert share == pytest.approx(0.54)
    assert ends == pytest.approx([0.54 - np.hypot(0.01, 0.18), 0.54 + np.hypot(0.005, 0.18)])
