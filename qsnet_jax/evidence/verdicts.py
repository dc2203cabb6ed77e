"""What a comparison of runs says of a claim: the effect, its interval, and the one verdict that both allow.

Seeds and scenes are both drawn by chance, so the interval of an effect is the widest of three: Student's t over seeds,
over scenes, and over both (the two variances added; that counts what is left of a single score twice, which errs on the
wide side). Claims of one table are corrected for their number by Holm's procedure: each has the interval of the level
at which that tests it. The interval is then compared with 0 and with the paper's effect, taken as positive:

| interval | full size | reduced size |
| --- | --- | --- |
| above 0, holds the paper's effect or lies above it | reproduced | seen |
| above 0, below the paper's effect | smaller than the paper's | seen |
| below 0 | opposite | not seen |
| holds 0, below the paper's effect | no effect of the paper's size | not seen |
| holds 0 and the paper's effect | no evidence | no evidence |

What `obstacles` names leaves no verdict at all, and does not count among the claims that are corrected for. Nor is
there a verdict on a set where nothing that is compared scores above the rainy images. Scores decide that, so these
claims stay among those that are corrected for.
"""

import dataclasses
import math
from typing import Any

import numpy as np

from qsnet_jax.evidence import obstacles, statistics
from qsnet_jax.evidence.rows import Rows

# Verdicts by what they mean for the claim; how they are drawn and in which order they are counted.
FOR, PARTLY, AGAINST, OPEN, BLOCKED = 'for', 'partly', 'against', 'open', 'blocked'


@dataclasses.dataclass(frozen=True)
class Effect:
    """How much better one variant is than another on one set, in dB."""

    mean: float
    by_seed: list[float]
    estimates: tuple[statistics.Estimate, ...]  # over seeds, over scenes, over both, as far as there are two of them
    better: float  # share of images
    images: int = 0
    scenes: int = 0

    def interval(self, level: float = statistics.LEVEL) -> list[float] | None:
        """The widest of the three; None without several seeds and several scenes."""
        return self._widest(level).interval(level) if self.is_complete else None

    def detectable(self, level: float = statistics.LEVEL) -> float:
        """The smallest true effect that such runs would tell from 0, by all three intervals, in 4 of 5 repetitions."""
        return statistics.detectable(self.estimates[:2], level)

    @property
    def is_complete(self) -> bool:
        return len(self.estimates) == 3

    @property
    def p(self) -> float:
        """The largest of the three, so that the interval leaves out 0 where this is below 1 - level."""
        return max(each.p for each in self.estimates)

    def _widest(self, level: float) -> statistics.Estimate:
        return max(self.estimates, key=lambda each: each.half(level))

    def __str__(self) -> str:
        if not self.by_seed:
            return 'no common seed'
        if not self.estimates:
            return f'{self.mean:+.2f}'
        low, high = self._widest(statistics.LEVEL).interval()
        about = '' if self.is_complete else ' over scenes' if len(self.by_seed) < 2 else ' over seeds'
        return f'{self.mean:+.2f} ({low:+.2f} .. {high:+.2f}{about})'


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What is said of a claim."""

    kind: str  # FOR, PARTLY, AGAINST, OPEN or BLOCKED
    word: str
    why: str = ''

    def __str__(self) -> str:
        return f'{self.word}: {self.why}' if self.why else self.word


@dataclasses.dataclass
class Claim:
    """One sentence of the paper's, with what our rows say of it."""

    table: str  # of the paper; behind a comma the training, where one table is told of several
    text: str
    size: str  # 'full' or a reduced one
    sample: str  # our set
    test: str  # the paper's, that our set is or stands in for
    paper: float  # its effect in dB
    effect: Effect
    blocked: list[str]
    harm: str = ''  # why a verdict would say nothing, by the scores themselves
    level: float = statistics.LEVEL
    verdict: Verdict = Verdict(OPEN, 'not judged')

    @property
    def interval(self) -> list[float] | None:
        """By which the claim is judged: Holm's."""
        return self.effect.interval(self.level)


def effect(better: Rows, worse: Rows, name: str, column: str = 'output_rgb_psnr', other: str | None = None) -> Effect:
    """Of variant `better` against `worse` on the set `name`, in pairs by image over the seeds that both have.

    other: the column of the worse, where it is another, as for two scales of one network.
    """
    first, second = ({row['seed']: row['sets'][name]['images'] for row in rows} for rows in (better, worse))
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        return Effect(math.nan, [], (), math.nan)
    scores = [(_floats(first[seed][column]), _floats(second[seed][other or column])) for seed in seeds]
    return of_differences(np.array([a - b for a, b in scores]), first[seeds[0]]['scene'])


def of_differences(differences: np.ndarray, scenes: Any) -> Effect:
    """The effect of (seeds, images) differences; images without a finite one are left out."""
    is_finite = np.isfinite(differences).all(axis=0)
    differences, scenes = differences[:, is_finite], np.asarray(scenes)[is_finite]
    if not differences.size:
        return Effect(math.nan, [], (), math.nan)
    by_seed, by_image = differences.mean(axis=1), differences.mean(axis=0)
    mean = float(by_seed.mean())
    parts = [statistics.over_values(by_seed), statistics.over_groups(by_image, scenes)]
    found = [each for each in parts if each is not None]
    both = [statistics.combine([(1.0, each) for each in found], mean)] if len(found) == 2 else []
    return Effect(
        mean=mean,
        by_seed=[float(value) for value in by_seed],
        estimates=(*found, *both),
        better=float((by_image > 0).mean()),
        images=by_image.size,
        scenes=len(np.unique(scenes)),
    )


def _floats(values: list[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], np.float64)


def judge(claims: list[Claim]) -> list[Claim]:
    """Gives every claim its level and verdict; those of one table and size, all trainings, are corrected together."""
    families: dict[tuple[str, str], list[Claim]] = {}
    for claim in claims:
        if not claim.blocked and claim.effect.is_complete:
            families.setdefault((claim.table.partition(', ')[0], claim.size), []).append(claim)
    for family in families.values():
        for claim, level in zip(family, statistics.holm([each.effect.p for each in family]), strict=True):
            claim.level = level
    for claim in claims:
        claim.verdict = decide(claim)
    return claims


def decide(claim: Claim) -> Verdict:
    """The verdict on one claim at its level."""
    ends = claim.interval
    if claim.blocked or ends is None:
        return Verdict(BLOCKED, 'no verdict', '; '.join(claim.blocked or ['no interval']))
    if claim.harm:
        return Verdict(BLOCKED, 'no verdict', claim.harm)
    sign = -1.0 if claim.paper < 0 else 1.0
    low, high = sorted(sign * end for end in ends)
    reaches, is_full = high >= abs(claim.paper), claim.size == 'full'
    if low > 0:
        if not is_full:
            return Verdict(FOR, 'seen')
        return Verdict(FOR, 'reproduced') if reaches else Verdict(PARTLY, "smaller than the paper's")
    if high < 0:
        return Verdict(AGAINST, 'opposite') if is_full else Verdict(AGAINST, 'not seen', 'the opposite')
    if reaches:
        smallest = claim.effect.detectable(claim.level)
        return Verdict(OPEN, 'no evidence', f'an effect shows in 4 of 5 repetitions only from {smallest:.2f} dB')
    words = "no effect of the paper's size"
    return Verdict(AGAINST, words) if is_full else Verdict(AGAINST, 'not seen', words)


def make(
    where: tuple[str, str, str], better: Rows, worse: Rows, name: str, paper: tuple[str, str, float],
    columns: tuple[str, str] = ('output_rgb_psnr', 'output_rgb_psnr'),
) -> Claim:  # fmt: skip
    """A claim that is not judged yet.

    where: table, text, size. paper: our set's label, the test it stands for, and the paper's effect there.
    """
    found = effect(better, worse, name, *columns)
    common = {row['seed'] for row in better} & {row['seed'] for row in worse}
    compared = [row for row in (*better, *worse) if row['seed'] in common]
    outputs = [(row['sets'][name], column) for rows, column in zip((better, worse), columns, strict=True)
               for row in rows if row['seed'] in common]  # fmt: skip
    return Claim(*where, *paper, found, obstacles.reasons(compared, name, len(common)), obstacles.harm(outputs))
