"""Evidence from rows, and the report that is made of them."""

import json
import pathlib
import re
import shutil

import numpy as np
import pytest
import scipy.stats
from qsnet_jax.configs import losses, studies

from qsnet_jax import UserError, provenance, storage
from qsnet_jax.evidence import claims, page, report

RESULTS = pathlib.Path(__file__).parents[2] / 'results'
SCENES = ['a', 'a', 'b', 'b', 'c', 'c']


def make_row(variant, seed, shift=0.0, **changes):
    """A study row of six images in three scenes whose PSNR is 30 + seed / 10 + the image's number + shift."""
    config = studies.make(losses.VARIANTS, 'small')
    overrides = config.study.variants[variant].to_dict()
    chosen = studies.select(config, variant)
    chosen.seed = seed
    psnr = [30 + seed / 10 + number + shift for number in range(6)]
    columns = {f'output_{protocol}_psnr': psnr for protocol in ('rgb', 'y')}
    columns |= {f'output_{protocol}_ssim': [0.9] * 6 for protocol in ('rgb', 'y')}
    columns |= {f'C_{n}_{protocol}_psnr': [each - n for each in psnr] for n in range(1, 6) for protocol in ('rgb', 'y')}
    tree = {protocol: {'psnr': float(np.mean(psnr)), 'ssim': 0.9} for protocol in ('rgb', 'y')}
    pairs = {
        **tree,
        'count': 6,
        'input': tree,
        'scales': {f'C_{n}': tree for n in range(1, 6)},
        'fingerprint': {'count': 6, 'sha256': 'f' * 64},
        'images': {'name': list('ABCDEF'), 'scene': SCENES, **columns},
    }
    record = provenance.collect(json.loads(chosen.to_json()), seed) | {'training': {'training_seconds': 60.0}}
    curve = [{'step': 200, 'validation_psnr': 29.0}, {'step': 400, 'validation_psnr': 30.0}]
    row = {'kind': 'study', 'size': 'small', 'variant': variant, 'overrides': overrides, 'seed': seed}
    return {**row, 'sets': {'pairs': pairs}, 'curve': curve, 'provenance': record, **changes}


def write(folder, rows):
    for row in rows:
        storage.write_json(folder / 'rows' / f'small-{row["variant"]}-{row["seed"]}.json', row)
    return folder


@pytest.fixture
def found(tmp_path):
    """Three seeds of V1 to V4, each variant 0.5 dB better than the last, but for the seeds' own differences."""
    shifts = {'V1': 0.0, 'V2': 0.512, 'V3': 1.012, 'paper': 1.512}
    rows = [make_row(name, seed, shift + 0.01 * seed * shift) for name, shift in shifts.items() for seed in range(3)]
    shutil.copy(RESULTS / 'paper.json', tmp_path / 'paper.json')
    return write(tmp_path, rows)


def test_t_interval_is_that_of_scipy():
    """Student's interval of the mean; none of a single value."""
    values = [0.3, -0.2, 0.5, 0.1]
    expected = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert claims.t_interval(values) == pytest.approx([expected.low, expected.high])
    assert claims.t_interval([1.0]) is None


def test_effects_are_paired_by_seed_and_image():
    """Images whose scores vary by decibels and seeds that differ do not hide a constant gain."""
    worse = [make_row('V1', seed) for seed in range(3)]
    better = [make_row('V2', seed, 0.1 + 0.001 * seed) for seed in (2, 0, 1, 7)]  # another order, one seed more
    effect = claims.effect(better, worse, 'pairs')
    assert effect.mean == pytest.approx(0.101) and effect.better == 1.0
    assert effect.by_seed == pytest.approx([0.1, 0.101, 0.102])
    assert effect.over_seeds == pytest.approx(claims.t_interval([0.1, 0.101, 0.102]))
    assert effect.over_images == pytest.approx([0.101, 0.101])
    assert effect.verdict == 'reproduced'


def test_images_without_a_finite_score_are_left_out():
    """A None on either side removes the image from the comparison, not from the row."""
    worse, better = make_row('V1', 0), make_row('V2', 0, 1.0)
    better['sets']['pairs']['images']['output_rgb_psnr'][5] = None
    assert claims.effect([better], [worse], 'pairs').mean == pytest.approx(1.0)


@pytest.mark.parametrize(
    ('gains', 'verdict'),
    [
        ((0.3, 0.4, 0.35), 'reproduced'),
        ((-0.3, -0.4, -0.35), 'contradicted'),
        ((0.3, -0.4, 0.35), 'not reproduced: the interval holds 0'),
        ((0.3, 0.4), 'open: 3 seeds are needed'),
        ((0.3,), 'open: 3 seeds are needed'),
    ],
)
def test_verdicts(gains, verdict):
    """The interval over seeds decides, and too few seeds decide nothing."""
    worse = [make_row('V1', seed) for seed in range(len(gains))]
    better = [make_row('V2', seed, gain) for seed, gain in enumerate(gains)]
    assert claims.effect(better, worse, 'pairs').verdict == verdict


@pytest.mark.parametrize('name', ['commit', 'command', 'versions', 'device', 'precision', 'date', 'config', 'seed'])
def test_rows_without_provenance_are_refused(tmp_path, name):
    """By their name, with what they lack."""
    row = make_row('V1', 0)
    del row['provenance'][name]
    with pytest.raises(UserError, match=rf'small-V1-0.json is refused; it lacks provenance.{name}\.'):
        claims.load(write(tmp_path, [row]))


def test_rows_without_their_data_or_time_are_refused(tmp_path):
    """The fingerprint of the scored files, and how long training took."""
    row = make_row('V1', 0)
    del row['sets']['pairs']['fingerprint'], row['provenance']['training']
    with pytest.raises(UserError, match='training_seconds, the fingerprint of its data'):
        claims.load(write(tmp_path, [row]))
    with pytest.raises(UserError, match='There are no rows'):
        claims.load(tmp_path / 'empty')
    (tmp_path / 'rows/small-V1-0.json').write_text('{')
    with pytest.raises(UserError, match='small-V1-0.json is no JSON'):
        claims.load(tmp_path)


def test_released_weights_stand_in_the_report_with_their_curve(found):
    """Scores of all sets, how they were trained, and a figure; mixtures of other data stand side by side."""
    for number, variant in enumerate(('default', 'light')):
        row = make_row('paper', 0, size='release-cpu', overrides={'data': {'train': f'pairs:{number}'}})
        row['variant'] = variant
        row['provenance']['config']['data']['train'] = f'pairs:{number}'
        own = {'pairs': {'sha256': 'a' * 64}, **({'drawn_light': {'sha256': 'b' * 64}} if number else {})}
        row['provenance']['training']['training_data'] = own
        row['sets']['pairs']['interval'] = {'y': {'psnr': [31.5, 32.25]}}
        row['curve'] = [{**line, 'seconds': 2.0 * line['step'], 'validation_psnr/pairs': 31.0} for line in row['curve']]
        storage.write_json(found / 'rows' / f'release-cpu-{variant}-0.json', row)
    report.report(found)
    text = (found / 'README.md').read_text()
    assert text.index('## Released weights') < text.index('## Pictures')
    assert '| default | pairs (6) | 32.50 / 0.900 |' in text and '31.50 .. 32.25 |' in text
    assert '| light | - | width 24, 4 units | 400 | 4 x 64² | 1 | cpu x 4 |' in text
    assert (found / 'figures/release.png').exists()
    row['provenance']['training']['training_data']['pairs']['sha256'] = 'c' * 64
    storage.write_json(found / 'rows/release-cpu-light-0.json', row)
    with pytest.raises(UserError, match='differ in training images of pairs'):
        claims.load(found)


def test_runs_that_differ_in_more_than_their_variants_are_refused(tmp_path):
    """Another number of steps, or other images, do not stand in one table."""
    other = make_row('V2', 0)
    other['provenance']['config']['train']['steps'] = 7
    with pytest.raises(UserError, match=r'small-V2-0.json and small-V1-0.json .* differ in train.steps'):
        claims.load(write(tmp_path, [make_row('V1', 0), other]))
    other = make_row('V2', 0)
    other['sets']['pairs']['fingerprint']['sha256'] = 'e' * 64
    with pytest.raises(UserError, match='scored images of pairs'):
        claims.load(write(tmp_path, [make_row('V1', 0), other]))


def test_a_variant_does_not_hide_a_difference_of_another(tmp_path):
    """V1's own fields are free in V1 alone: another run with another weight of the detail loss is refused."""
    other = make_row('V3', 0)
    other['provenance']['config']['loss']['detail'] = 0.5
    with pytest.raises(UserError, match='V3-0.json and small-paper-0.json .* differ in loss.detail'):
        claims.load(write(tmp_path, [make_row('V1', 0), make_row('paper', 0), other]))


def test_variants_without_a_common_seed_stay_open():
    """No comparison, and no error either."""
    effect = claims.effect([make_row('V2', 1)], [make_row('V1', 0)], 'pairs')
    assert str(effect) == 'no common seed' and effect.verdict.startswith('open')


def test_the_report_says_what_the_rows_say(found):
    """Every mean, spread, step and verdict of Table 4, beside the paper's, and failed runs by name."""
    write(found, [{**make_row('V2', 9), 'sets': {}, 'failed': 'total not finite'}])
    report.report(found)
    text = (found / 'README.md').read_text()
    assert 'V2 | 9 | small | total not finite' in text
    psnr = [30 + seed / 10 + 2.5 + 0.512 * (1 + 0.01 * seed) for seed in range(3)]  # V2
    assert f'{np.mean(psnr):.2f} ± {np.std(psnr, ddof=1):.2f} / 0.900' in text
    assert '29.94 / 0.858 | 31.70 / 0.898 | 32.03 / 0.908 | 33.15 / 0.923' in text  # the paper's Table 4, Test-I
    gains = [0.512 * (1 + 0.01 * seed) for seed in range(3)]
    low, high = claims.t_interval(gains)
    line = next(line for line in text.splitlines() if 'V2 over V1' in line)
    assert f'{np.mean(gains):+.2f} ({low:+.2f} .. {high:+.2f})' in line and '+1.76 (Test-I)' in line
    assert line.endswith('reproduced, at reduced size |')
    assert 'not testable here: never released' in text
    html = (found / 'report.html').read_text()
    assert 'http' not in re.sub('base64,[^"]*', '', html).replace('http-equiv', '')  # nothing is fetched


def test_the_published_report_is_that_of_the_published_rows(tmp_path):
    """results/README.md cannot be edited by hand, nor rows be added without it."""
    for name in ('rows', 'sparsity', 'bench'):
        shutil.copytree(RESULTS / name, tmp_path / name)
    shutil.copytree(RESULTS / 'figures', tmp_path / 'figures')
    report.report(tmp_path)
    assert (tmp_path / 'README.md').read_text() == (RESULTS / 'README.md').read_text()


def test_text_of_strangers_stays_text(tmp_path):
    """Names with markup neither break a table nor become elements."""
    items = [page.Heading('H'), page.Table('T', ['a'], [['<img src=x onerror=alert(1)> | **b**']])]
    html, text = page.html(items, tmp_path), page.markdown(items, tmp_path)
    assert '&lt;img src=x' in html and '**b**' in html and '<img src=x' not in html
    assert r'\<img src=x onerror=alert(1)> \| \*\*b\*\*' in text


@pytest.fixture(scope='module')
def browser():
    """Chromium without a window; tests that need it are skipped where there is none."""
    playwright = pytest.importorskip('playwright.sync_api')
    path = next(
        (found for name in ('chromium', 'chromium-browser', 'google-chrome') if (found := shutil.which(name))), ''
    )
    if not path:
        pytest.skip('no Chromium is installed; the page is not looked at')
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=['--no-sandbox'])
        yield browser
        browser.close()


@pytest.mark.parametrize('width', [1280, 375])
def test_the_page_works_in_a_browser(browser, found, width):
    """No errors, no requests, nothing wider than the window; tables sort, sliders slide, pictures enlarge."""
    report.report(found)
    tab = browser.new_page(viewport={'width': width, 'height': 800})
    troubles = []
    tab.on('console', lambda message: troubles.append(message.text))
    tab.on('pageerror', lambda error: troubles.append(str(error)))
    tab.on('request', lambda request: troubles.append(request.url) if request.url.startswith('http') else None)
    tab.goto((found / 'report.html').as_uri())
    assert tab.evaluate('document.documentElement.scrollWidth <= innerWidth')
    table = tab.locator('table', has_text='DDN (paper)').first
    order = lambda: table.locator('tbody tr td:nth-child(2)').all_inner_texts()  # noqa: E731
    table.locator('th button').nth(1).click()
    rising = [float(text.split()[0]) for text in order() if text != '-']
    assert rising == sorted(rising) and rising[0] == 17.93 and order()[-1] == '-'
    table.locator('th button').nth(1).click()
    assert [float(text.split()[0]) for text in order() if text != '-'] == rising[::-1] and order()[-1] == '-'
    key = 'text => key(text)'  # what tables are sorted by
    keys = tab.evaluate(f"['7e-08', '+1.5 (0 .. 2)', '30.1 ± 2', '2026-11-23', '5ccd7fb', '-'].map({key})")
    assert keys == [7e-8, 1.5, 30.1, None, None, None]
    slider = tab.locator('.slider').first
    slider.locator('input').fill('20')
    assert slider.evaluate('node => getComputedStyle(node).getPropertyValue("--at")').strip() == '20%'
    tab.locator('figure img.zoom[role=button]').first.click()
    assert tab.locator('dialog[open]').count() == 1
    tab.locator('dialog img').click()
    assert tab.locator('dialog[open]').count() == 0
    assert not troubles
    tab.close()
