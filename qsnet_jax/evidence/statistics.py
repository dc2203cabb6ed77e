"""Intervals of means by Student's t over groups (scenes, seeds), Holm's correction, and the smallest effect to be seen.

Images of one scene are no independent evidence, so groups are what is counted: an interval has one degree of freedom
less than there are groups. The mean is that over images. With equal groups its interval is that of the groups' means;
with unequal ones the variance between and within groups is estimated first (analysis of variance), because the mean of
a large group is more certain and weighs more. The bootstrap of percentiles covers 85 to 93 % instead of 95 with 5 to 20
groups; this covers 94 to 96, and less where one group holds more than half of the values (83 to 92).
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import scipy.special

LEVEL = 0.95  # of every interval
POWER = 0.8  # with which the smallest detectable effect would be seen
DRAWS = 40_000  # repetitions by which that effect is found: it is known to about a hundredth of itself
Column: TypeAlias = tuple[np.ndarray, np.ndarray]  # values, and of each the number or name of its group


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean with its standard error and the degrees of freedom of that error."""

    mean: float
    error: float
    freedom: float

    def half(self, level: float = LEVEL) -> float:
        """Half the width of the interval."""
        return float(scipy.special.stdtrit(self.freedom, (1 + level) / 2)) * self.error

    def interval(self, level: float = LEVEL, most: float = math.inf) -> list[float]:
        """Both ends; none lies beyond `most`, the best score there is (1 of SSIM)."""
        return [self.mean - self.half(level), min(self.mean + self.half(level), most)]

    @property
    def p(self) -> float:
        """Two-sided p-value of a mean of 0."""
        if self.error == 0:
            return float(self.mean == 0)
        return float(2 * scipy.special.stdtr(self.freedom, -abs(self.mean) / self.error))


def over_groups(values: np.ndarray, groups: np.ndarray) -> Estimate | None:
    """The mean of all values, with its error over groups; None for fewer than two groups.

    values: (n,), finite. groups: (n,), of each value what it shares with others.
    """
    if len(values) == 0 or len(np.unique(groups)) < 2:
        return None
    means, errors, freedom = estimates(np.asarray(values, np.float64)[None], groups)
    return Estimate(float(means[0]), float(errors[0]), freedom)


def estimates(values: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Means and standard errors of samples with the same two or more groups, (samples, n), and their freedom."""
    _, members, counts = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.argsort(members, kind='stable')
    sums = np.add.reduceat(values[:, order], np.cumsum([0, *counts[:-1]]), axis=1)
    of_groups, mean_ = sums / counts, values.mean(axis=1)  # (samples, groups), (samples,)
    variance = np.ones_like(of_groups)
    if counts.min() < counts.max():
        variance = _variances(values - of_groups[:, members], of_groups - mean_[:, None], counts)
    variance[~variance.all(axis=1)] = 1.0  # no variance at all
    weight = 1 / variance
    best = np.sum(of_groups * weight, axis=1) / weight.sum(axis=1)
    scale = np.sum((of_groups - best[:, None]) ** 2 * weight, axis=1) / (len(counts) - 1)
    share = counts / counts.sum()  # of each group in the mean
    return mean_, np.sqrt(scale * np.sum(share**2 * variance, axis=1)), float(len(counts) - 1)


def _variances(inner: np.ndarray, outer: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Variance of each group's mean, (samples, groups): that between groups + that within / count.

    inner: deviations from the group's mean, (samples, n). outer: of that from the mean of all, (samples, groups).
    """
    total, number = counts.sum(), len(counts)
    within = np.sum(inner**2, axis=1) / (total - number)
    between = np.sum(counts * outer**2, axis=1) / (number - 1)
    between = (between - within) * (number - 1) / (total - np.sum(counts**2) / total)
    return np.maximum(between, 0.0)[:, None] + within[:, None] / counts


def over_values(values: Sequence[float] | np.ndarray) -> Estimate | None:
    """The mean of independent values, as of seeds; None for fewer than two."""
    return over_groups(np.asarray(values, np.float64), np.arange(len(values)))


def combine(parts: Sequence[tuple[float, Estimate]], mean: float) -> Estimate:
    """A weighted sum of independent estimates, [(weight, estimate), ...], of value `mean` (Welch, Satterthwaite)."""
    variances = [(weight * each.error) ** 2 for weight, each in parts]
    total = sum(variances)
    ratio = sum(v**2 / each.freedom for v, (_, each) in zip(variances, parts, strict=True))
    freedom = total**2 / ratio if ratio else min(each.freedom for _, each in parts)
    return Estimate(mean, math.sqrt(total), freedom)


def detectable(parts: Sequence[Estimate], level: float = LEVEL) -> float:
    """The smallest true mean for which POWER of all repetitions would leave 0 below each interval.

    parts: independent errors of one mean, as over seeds and over scenes; the intervals are theirs and that of both
      together (`combine`), and the mean varies by the sum. Repetitions are drawn, with a fixed seed; the errors that
      were found are taken as the true ones.
    """
    generator = np.random.default_rng(0)
    drawn = [(each.error * np.sqrt(generator.chisquare(each.freedom, DRAWS) / each.freedom), each) for each in parts]
    variances = np.array([errors**2 for errors, _ in drawn])
    total = variances.sum(axis=0)
    ratio = sum(variance**2 / each.freedom for variance, (_, each) in zip(variances, drawn, strict=True))
    freedom = np.divide(total**2, ratio, out=np.ones(DRAWS), where=ratio > 0)
    ends = [scipy.special.stdtrit(each.freedom, (1 + level) / 2) * errors for errors, each in drawn]
    ends.append(scipy.special.stdtrit(freedom, (1 + level) / 2) * np.sqrt(total))
    means = generator.normal(0, math.sqrt(sum(each.error**2 for each in parts)), DRAWS)
    return float(np.quantile(np.max(ends, axis=0) - means, POWER))


def mean(sets: list[Column]) -> float | None:
    """Mean over sets of the means over images; None where a set has no value."""
    return float(np.mean([values.mean() for values, _ in sets])) if all(values.size for values, _ in sets) else None


def interval(sets: list[Column], most: float = math.inf) -> list[float] | None:
    """The interval of `mean`, each set with groups of its own; None where one has fewer than two."""
    found = [over_groups(values, groups) for values, groups in sets]
    parts = [(1 / len(sets), each) for each in found if each is not None]
    if len(parts) < len(sets):
        return None
    return combine(parts, float(np.mean([each.mean for _, each in parts]))).interval(most=most)


def share_interval(hits: np.ndarray, groups: np.ndarray) -> list[float]:
    """Wilson's interval of a share, with Student's quantile and the number of independent values that groups leave.

    hits: (n,) of 0 and 1. That number is p (1 - p) / (squared error over groups), at most n; of shares of 0 and 1,
    where there is no error to go by, the number of groups.
    """
    share, found = float(np.mean(hits)), over_groups(np.asarray(hits, np.float64), groups)
    size = float(len(np.unique(groups)))
    if found is not None and found.error > 0 and size < len(hits):
        size = min(share * (1 - share) / found.error**2, float(len(hits)))
    quantile = float(scipy.special.stdtrit(found.freedom if found else 1.0, (1 + LEVEL) / 2))
    centre = (share + quantile**2 / (2 * size)) / (1 + quantile**2 / size)
    half = quantile / (1 + quantile**2 / size) * math.sqrt(share * (1 - share) / size + (quantile / size / 2) ** 2)
    return [max(centre - half, 0.0), min(centre + half, 1.0)]


def pooled_share(parts: Sequence[tuple[float, float, Sequence[float]]]) -> tuple[float, list[float]]:
    """The share in a mixture, and its interval, of [(weight, share, its interval), ...]; weights add up to 1.

    The distances of the ends add in squares (the method of variance estimates recovery, Zou and Donner 2008), which
    keeps what Wilson's interval knows of shares of 0 and 1.
    """
    share = sum(weight * each for weight, each, _ in parts)
    below = math.sqrt(sum((weight * (each - ends[0])) ** 2 for weight, each, ends in parts))
    above = math.sqrt(sum((weight * (ends[1] - each)) ** 2 for weight, each, ends in parts))
    return share, [max(share - below, 0.0), min(share + above, 1.0)]


def holm(values: Sequence[float]) -> list[float]:
    """Of each p-value the level at which its interval leaves out 0 exactly where Holm's procedure rejects.

    The smallest of m is tested at 1 - .05 / m, the next at 1 - .05 / (m - 1), until one is not rejected; that one's
    level is also that of all larger ones, none of which is rejected then.
    """
    levels, number, is_open = [0.0] * len(values), len(values), True
    for index in sorted(range(number), key=lambda i: values[i]):
        levels[index] = 1 - (1 - LEVEL) / number
        is_open = is_open and values[index] < 1 - levels[index]
        number -= is_open
    return levels
