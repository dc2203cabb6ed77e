"""Verdicts on made-up rows: every case of the interval against 0 and the paper's effect, and Holm's correction."""

import numpy as np
import pytest
import scipy.special
from made_rows import make_row

from qsnet_jax.evidence import claims, statistics, verdicts

WHERE = ('Table 4', 'V2 helps', 'full')


def claim(gains, paper, size='full', spread=0.0, **blocked):
    """A claim of one seed per gain, whose scenes differ by `spread`."""
    noise = [-spread, -spread, 0.0, 0.0, spread, spread]
    worse = [make_row('V1', seed, size=size) for seed in range(len(gains))]
    better = [make_row('V2', seed, gain, size, noise) for seed, gain in enumerate(gains)]
    made = verdicts.make((*WHERE[:2], size), better, worse, 'pairs', ('pairs (6)', 'Test-I', paper))
    return made if not blocked else verdicts.dataclasses.replace(made, **blocked)


@pytest.mark.parametrize(
    ('gains', 'paper', 'full', 'reduced'),
    [
        ((0.45, 0.46, 0.47), 0.46, 'reproduced', 'seen'),  # holds the paper's effect
        ((0.95, 0.96, 0.97), 0.46, 'reproduced', 'seen'),  # lies above it
        ((0.019, 0.02, 0.021), 0.46, "smaller than the paper's", 'seen'),
        ((-0.45, -0.46, -0.47), 0.46, 'opposite', 'not seen: the opposite'),
        ((-0.01, 0.0, 0.01), 0.46, "no effect of the paper's size", "not seen: no effect of the paper's size"),
        ((-0.3, 0.2, 0.7), 0.46, 'no evidence', 'no evidence'),  # holds both
        ((-0.45, -0.46, -0.47), -0.46, 'reproduced', 'seen'),  # a claim of a loss
        ((0.45, 0.46, 0.47), -0.46, 'opposite', 'not seen: the opposite'),
    ],
)
def test_every_case(gains, paper, full, reduced):
    """+.02 dB is no reproduction of +.46; what could not have been seen is not denied."""
    for size, expected in (('full', full), ('small', reduced)):
        judged = verdicts.judge([claim(gains, paper, size)])[0]
        assert str(judged.verdict).split(': an effect')[0] == expected


def test_no_evidence_says_what_could_have_been_seen():
    """Of three seeds whose scenes agree, nearly what the noncentral t-distribution gives for them."""
    judged = verdicts.judge([claim((-0.3, 0.2, 0.7), 0.46)])[0]
    smallest = judged.effect.detectable()
    error = np.std((-0.3, 0.2, 0.7), ddof=1) / np.sqrt(3)
    critical = scipy.special.stdtrit(2.0, 0.975)
    assert smallest == pytest.approx(error * scipy.special.nctdtrinc(2.0, 0.2, critical), rel=0.05)
    assert judged.verdict.why == f'an effect shows in 4 of 5 repetitions only from {smallest:.2f} dB' and smallest > 1
    assert statistics.POWER == 4 / 5 and f'dB; {judged.verdict.why})' in claims.sentence([judged])


@pytest.mark.parametrize(('scenes', 'spread', 'level'), [(3, 1.0, 0.95), (3, 0.5, 1 - 0.05 / 8), (35, 11.0, 0.95)])
def test_the_smallest_effect_is_seen_in_four_of_five_repetitions(scenes, spread, level):
    """Simulated, with that very effect: all three intervals leave out 0."""
    draws, generator = 3000, np.random.default_rng(7)
    parts = [statistics.Estimate(0.0, each / np.sqrt(n), n - 1.0) for each, n in ((1.0, 3), (spread, scenes))]
    smallest = statistics.detectable(parts, level)
    seen = 0
    for _ in range(draws):
        differences = smallest + generator.normal(size=(3, 1)) + spread * generator.normal(size=(1, scenes))
        low, _ = verdicts.of_differences(differences, np.arange(scenes)).interval(level)
        seen += low > 0
    assert seen / draws == pytest.approx(statistics.POWER, abs=0.03)


@pytest.mark.parametrize('gains', [(0.3, 0.4), (0.3,), ()])
def test_fewer_than_three_seeds_decide_nothing(gains):
    """However clear they are."""
    judged = verdicts.judge([claim(gains, 0.46)])[0]
    assert str(judged.verdict) == f'no verdict: {len(gains)} of 3 seeds'


def test_scenes_count_as_seeds_do():
    """Three seeds that agree to a hundredth say little where three scenes differ by a decibel."""
    judged = verdicts.judge([claim((0.45, 0.46, 0.47), 0.46, spread=1.0)])[0]
    assert judged.verdict.word == 'no evidence'
    low, high = judged.interval
    scenes = statistics.over_values([-0.54, 0.46, 1.46])
    assert low <= scenes.interval()[0] and high >= scenes.interval()[1]
    assert judged.effect.detectable() > 0.9 * statistics.detectable([scenes])  # where seeds alone would see .02 dB


def test_the_interval_covers_both_kinds_of_chance():
    """Simulated: seeds and scenes that both differ; 95 % or more of the intervals hold the true effect of 0."""
    generator, held = np.random.default_rng(3), []
    for seeds, scenes in ((0.5, 0.5), (0.2, 1.0), (1.0, 0.2)):
        for _ in range(700):
            effect = seeds * generator.normal(size=(3, 1)) + scenes * generator.normal(size=(1, 12))
            effect = effect + 0.1 * generator.normal(size=(3, 12))
            low, high = verdicts.of_differences(effect, np.arange(12)).interval()
            held.append(low <= 0 <= high)
    assert np.mean(held) > 0.95 - 0.01


def test_holm_corrects_within_a_table():
    """One claim that stands alone is reproduced; among nine that show nothing the same numbers are no evidence."""
    gains, nothing = (0.3, 0.46, 0.62), (-0.5, 0.0, 0.5)
    assert verdicts.judge([claim(gains, 0.46)])[0].verdict.word == 'reproduced'
    many = verdicts.judge([claim(gains, 0.46), *(claim(nothing, 0.46) for _ in range(9))])
    assert many[0].level == pytest.approx(1 - 0.05 / 10) and many[0].verdict.word == 'no evidence'
    other_tables = [verdicts.dataclasses.replace(claim(nothing, 0.46), table=f'Table {n}') for n in range(10, 19)]
    assert verdicts.judge([claim(gains, 0.46), *other_tables])[0].verdict.word == 'reproduced'


def test_holm_corrects_over_all_trainings_of_a_table():
    """Table 3 is told of two: their claims are one family."""
    names = ('Table 3', 'Table 3, auxiliary_x100')
    both = [verdicts.dataclasses.replace(claim((-0.5, 0.0, 0.5), 0.46), table=name) for name in names for _ in range(3)]
    assert {each.level for each in verdicts.judge(both)} == {1 - 0.05 / 6}


def test_what_has_no_verdict_is_not_corrected_for():
    """Blocked claims test nothing."""
    blocked = [claim((-0.5, 0.0, 0.5), 0.46, blocked=['one scene alone']) for _ in range(9)]
    judged = verdicts.judge([claim((0.3, 0.46, 0.62), 0.46), *blocked])
    assert judged[0].verdict.word == 'reproduced' and str(judged[1].verdict) == 'no verdict: one scene alone'


def test_networks_that_harm_every_image_decide_nothing():
    """Their claims are corrected for all the same: that one counts must not be for the scores to say."""
    alone, other = claim((0.3, 0.46, 0.62), 0.46), claim((0.1, 0.2, 0.3), 0.46, harm='worse than the rain')
    judged = verdicts.judge([alone, other])
    assert str(judged[1].verdict) == 'no verdict: worse than the rain' and judged[0].level == 1 - 0.05 / 2


def test_harm_is_that_of_what_is_compared():
    """Of scales by themselves, it is not the harm of all together: by `made_rows` C_n is n dB below them, at 32.6."""
    made = [make_row('V1', seed) for seed in range(3)]
    worse = 'than the rainy'
    for rain, scales, alone in ((20.0, '', ''), (29.0, worse, ''), (99.0, worse, worse)):
        for row in made:
            row['sets']['pairs']['input']['rgb']['psnr'] = rain
        for columns, expected in (
            (('C_4_rgb_psnr', 'C_5_rgb_psnr'), scales),
            (('output_rgb_psnr', 'C_5_rgb_psnr'), alone),
            (('output_rgb_psnr', 'output_rgb_psnr'), alone),
        ):
            harm = verdicts.make(WHERE, made, made, 'pairs', ('pairs (6)', 'Test-I', 1.0), columns).harm
            assert expected in harm and bool(expected) == bool(harm)


def test_effects_are_paired_by_seed_and_image():
    """Images whose scores vary by decibels and seeds that differ do not hide a constant gain."""
    worse = [make_row('V1', seed) for seed in range(3)]
    better = [make_row('V2', seed, 0.1 + 0.001 * seed) for seed in (2, 0, 1, 7)]  # another order, one seed more
    effect = verdicts.effect(better, worse, 'pairs')
    assert effect.mean == pytest.approx(0.101) and effect.better == 1.0 and (effect.images, effect.scenes) == (6, 3)
    assert effect.by_seed == pytest.approx([0.1, 0.101, 0.102])
    assert effect.interval() == pytest.approx(statistics.over_values([0.1, 0.101, 0.102]).interval())


def test_images_without_a_finite_score_are_left_out():
    """A None on either side removes the image from the comparison, not from the row."""
    worse, better = make_row('V1', 0), make_row('V2', 0, 1.0)
    better['sets']['pairs']['images']['output_rgb_psnr'][5] = None
    effect = verdicts.effect([better], [worse], 'pairs')
    assert effect.mean == pytest.approx(1.0) and effect.images == 5


def test_variants_without_a_common_seed_stay_open():
    """No comparison, and no error either."""
    made = verdicts.make(WHERE, [make_row('V2', 1)], [make_row('V1', 0)], 'pairs', ('pairs (6)', 'Test-I', 0.4))
    assert str(made.effect) == 'no common seed'
    assert str(verdicts.judge([made])[0].verdict) == 'no verdict: 0 of 3 seeds'


def test_scores_that_are_all_missing_have_no_interval():
    """Three seeds on images that are too small for a score, say."""
    worse, better = ([make_row(name, seed) for seed in range(3)] for name in ('V1', 'V2'))
    for row in better:
        row['sets']['pairs']['images']['output_rgb_psnr'] = [None] * 6
    made = verdicts.make(WHERE, better, worse, 'pairs', ('pairs (6)', 'Test-I', 0.4))
    assert str(verdicts.judge([made])[0].verdict) == 'no verdict: no interval'


def test_of_one_seed_only_scenes_tell():
    """Said so, and no verdict."""
    worse, better = [make_row('V1', 0)], [make_row('V2', 0, 0.5, noise=[0, 0, 0.1, 0.1, 0.2, 0.2])]
    assert str(verdicts.effect(better, worse, 'pairs')) == '+0.60 (+0.35 .. +0.85 over scenes)'
