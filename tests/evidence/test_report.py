"""The report that is made of rows, and the page that it is."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree

import numpy as np
import pytest
from made_rows import RESULTS, make_row, write, write_study
from PIL import Image

from qsnet_jax import UserError, storage
from qsnet_jax.evidence import claims, forest, page, pictures, report, rows, scatter, statistics, tables


@pytest.fixture
def found(tmp_path):
    """Three seeds of V1 to V4, each variant 0.5 dB better than the last, but for the seeds' own differences."""
    return write_study(tmp_path)


@pytest.fixture(scope='module')
def reported(tmp_path_factory):
    """The same and a run that failed, with the report."""
    folder = write_study(tmp_path_factory.mktemp('reported'))
    write(folder, [{**make_row('V2', 9), 'sets': {}, 'failed': 'total not finite'}])
    report.report(folder)
    return folder


@pytest.fixture
def without_pictures(monkeypatch):
    """No photo is restored, which takes seconds."""
    monkeypatch.setattr(pictures, 'items', lambda *_: [])


def test_claims_are_read_without_what_computes():
    """Without JAX, Orbax, TFDS or the drawing of figures, and so in seconds even on a busy machine."""
    heavy = ('jax', 'orbax', 'tensorflow_datasets', 'matplotlib', 'cv2', 'flax', 'grain')
    code = (
        'import sys, time; begun = time.perf_counter(); import qsnet_jax.evidence.claims; '
        f'print(time.perf_counter() - begun, [name for name in {heavy} if name in sys.modules])'
    )
    printed = [subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
               for _ in range(3)]  # fmt: skip
    assert all(line.split(' ', 1)[1].strip() == '[]' for line in printed)
    assert min(float(line.split()[0]) for line in printed) < 10.0  # .35 s where nothing else runs


@pytest.mark.slow
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
    text = (found / 'tables.md').read_text()
    assert text.index('## Pictures') < text.index('## Released weights')
    low, high = statistics.interval([(30 + np.arange(6.0), np.arange(6) // 2)])  # over three scenes
    assert '| cpu default | pairs (6) | 20.00 / 0.700 | 32.50 / 0.900 |' in text
    assert f'{low:.2f} .. {high:.2f} |' in text
    assert '| cpu default | pairs | 400 | 13.3 | 31.00 |' in text  # the curve as a table
    assert '| cpu light | - | width 24, 4 units | 400 | 4 x 64² | 1 | cpu x 4 |' in text
    assert (found / 'figures/release.png').exists()
    row['provenance']['training']['training_data']['pairs']['sha256'] = 'c' * 64
    storage.write_json(found / 'rows/release-cpu-light-0.json', row)
    with pytest.raises(UserError, match='differ in training images of pairs'):
        rows.load(found)


def test_the_report_says_what_the_rows_say(reported):
    """Every mean, spread, step and verdict of Table 4, beside the paper's, and failed runs by name."""
    text = (reported / 'tables.md').read_text()
    assert 'V2 | 9 | small | total not finite' in text
    psnr = [30 + seed / 10 + 2.5 + 0.512 * (1 + 0.01 * seed) for seed in range(3)]  # V2
    assert f'{np.mean(psnr):.2f} ± {np.std(psnr, ddof=1):.2f} / 0.900' in text
    assert '29.94 / 0.858 | 31.70 / 0.898 | 32.03 / 0.908 | 33.15 / 0.923' in text  # the paper's Table 4, Test-I
    gains = [0.512 * (1 + 0.01 * seed) for seed in range(3)]
    estimate = statistics.over_values(gains)
    line = next(line for line in text.splitlines() if line.startswith('| small | Table 4') and 'V2 over V1' in line)
    low, high = estimate.interval()
    assert f'| +1.76 (Test-I) | {np.mean(gains):+.2f} | {low:+.2f} .. {high:+.2f} |' in line
    assert line.endswith('| seen |')
    assert 'not testable here: never released' in text
    assert "nothing here confirms or refutes the paper's numbers" in text
    assert 'The paper: +1.76 dB on Test-I. Small networks show it on pairs (6) (+0.52 dB).' in text
    html = (reported / 'report.html').read_text()
    assert 'http' not in re.sub('base64,[^"]*', '', html).replace('http-equiv', '')  # nothing is fetched


def test_the_overview_is_short_and_leads_to_the_rest(reported):
    """The plot, at most fifteen lines, and links to files that are there."""
    text = (reported / 'README.md').read_text()
    assert text.index('figures/verdicts.svg') < 100
    assert sum(bool(line) for line in text.splitlines()) <= 15
    assert 'in Table 3, within one row' in text  # what a gain is
    for target in re.findall(r'\]\(([^)]+)\)', text):
        assert (reported / target).exists()
    for file in reported.glob('figures/*.svg'):
        xml.etree.ElementTree.parse(file)  # whole, and text of rows escaped


def test_verdicts_are_counted_in_plain_words(reported):
    """Those on gains, on sparsity and what nothing can test each in a line of their own, as the tables have them."""
    text = (reported / 'README.md').read_text()
    assert '- **7 verdicts on gains in dB**, one for each claim and each of our sets: 6 seen, 1 not seen.' in text
    assert '- **4 claims of Tables 1 and 2 cannot be tested here**' in text and 'how sparse' not in text
    words = ('some images are', 'too few: 4 of 30 scenes', 'some images are', 'not testable here: never released')
    other = page.Table('Other claims', ['verdict'], [[word] for word in words])
    assert claims.counts([], other) == [
        '**3 verdicts on how sparse rainy images are** (Sec. 3.1): in 2, some images are sparser than a Laplacian '
        'sample; in 1, there are too few images to tell.',
        '**1 claim of Tables 1 and 2 cannot be tested here**; the table of other claims says why.',
    ]


@pytest.mark.slow
def test_the_published_report_is_that_of_the_published_rows(tmp_path):
    """What is in results/ cannot be edited by hand, nor rows be added without it."""
    for name in ('rows', 'sparsity', 'bench'):
        shutil.copytree(RESULTS / name, tmp_path / name)
    shutil.copytree(RESULTS / 'figures', tmp_path / 'figures')
    report.report(tmp_path)
    for name in ('README.md', 'tables.md', 'figures/verdicts.svg', 'figures/speed_and_quality.svg'):
        assert (tmp_path / name).read_text() == (RESULTS / name).read_text()


def test_both_readings_of_without_sharing_are_timed():
    """7 over 5 ms is 1.18 to 1.67 before rounding; a reading has that ratio or not, against its own batch and size."""
    models = {'full size': {}, 'not shared': {'share_groups': False, 'share_scales': 'none'}}
    models['decoders'] = {**models['not shared'], 'decoder_groups': 1}
    cases = [
        {'model': name, 'size': size, 'batch': 1, 'precision': 'float32', 'training': False,
         'peers': {'JAX': {'seconds': {'median': median}}}}
        for name, size, median in (('full size', 256, 1.0), ('full size', 512, 4.0), ('not shared', 256, 1.05),
                                   ('decoders', 256, 1.5))
    ]  # fmt: skip
    row = {'kind': 'bench', 'file': 'cpu.json', 'cases': cases, 'provenance': {'config': {'bench': {'models': models}}}}
    table = tables.times_without_sharing([row], {'QSNet': 0.005, 'QSNet without sharing': 0.007})
    where = 'cpu, 256², batch 1, float32'
    assert table.rows == [
        ['no shuffles', where, '1.05', 'has not'],
        ['decoders without groups', where, '1.50', "has the paper's ratio"],
    ]
    assert "the paper's 1.4, 1.18 to 1.67 unrounded" in table.title
    cases[2]['peers']['JAX, full size'] = {'ratio': 0.8}  # in the same rounds, which counts for more
    table = tables.times_without_sharing([row], {'QSNet': 0.005, 'QSNet without sharing': 0.007})
    assert table.rows[0] == ['no shuffles', where, '1.25', "has the paper's ratio"]
    row['provenance']['config']['model'] = {'share_scales': True}  # the default of before
    table = tables.times_without_sharing([row], {'QSNet': 0.005, 'QSNet without sharing': 0.007})
    assert table.rows[0][1] == f"{where}, over model.share_scales='all'"


def test_what_was_compiled_for_a_card_is_no_timing(tmp_path):
    """It is among the records, and in no table of times."""
    for name in ('rows', 'sparsity', 'bench'):
        shutil.copytree(RESULTS / name, tmp_path / name)
    kinds = {row['file']: row['kind'] for row in rows.load(tmp_path)}
    assert {kinds[f'compiled-{card}.json'] for card in ('h100', 'a100', 'rtx4090')} == {'compiled'}
    assert kinds['cpu-2-cores.json'] == kinds['choices-cpu-2-cores.json'] == 'bench'


def test_both_readings_of_without_sharing_are_claims():
    """Each against the one column that the paper has."""
    paper = json.loads((RESULTS / 'paper.json').read_text())
    variants = {'paper': [make_row('V1', seed, 1.0) for seed in range(3)]}
    variants |= {name: [make_row('V1', seed) for seed in range(3)] for name in ('not_shared', 'not_grouped')}
    made = claims._of_orders(variants, 'small', paper)
    assert [claim.text.split()[0] for claim in made] == ['Information', 'Groups']
    assert [claim.paper for claim in made] == pytest.approx([33.15 - 31.91] * 2)


def test_the_trainings_of_one_table_are_one_family():
    """Three claims of `paper` and three of `auxiliary_x100`, all certain: the first is tested as one of six."""
    paper = json.loads((RESULTS / 'paper.json').read_text())
    other = {'variant': 'auxiliary_x100', 'overrides': {'loss': {'auxiliary': 1.0}}}
    made = [make_row('paper', seed) | change for seed in range(3) for change in ({}, other)]
    found = claims.collect([{**row, 'file': 'a.json'} for row in made], paper)
    assert [claim.table for claim in found] == ['Table 3'] * 3 + ['Table 3, auxiliary_x100'] * 3
    assert max(claim.level for claim in found) == pytest.approx(1 - 0.05 / 6)


def test_the_plot_shows_every_claim(found):
    """A mark, the paper's triangle and the verdict's word for each; cut off with arrows where it leaves the axis."""
    made = claims.collect(rows.load(found), json.loads((found / 'paper.json').read_text()))
    assert {claim.verdict.word for claim in made} >= {'seen', 'not seen'}
    wide, narrow = forest.draw(made, True), forest.draw(made, False)
    for claim in made:
        assert f'{claim.sample} for {claim.test}: {claim.verdict.word}' in narrow
    assert wide.count('<g transform="translate(') == narrow.count('<g transform="translate(') == len(made)
    assert wide.count('class="paper"') == narrow.count('class="paper"') == len(made) + 1  # and one in the legend
    assert 'No row yet of the network and recipe of the paper.' in wide
    full = [dataclasses.replace(claim, size='full') for claim in made]
    titles = re.findall('[A-Z][a-z]* size: [a-z ]*', forest.draw([*full, *made], True))
    assert titles == ['Full size: what speaks of the paper', 'Small size: speaks of itself alone']
    assert 'No row yet' not in forest.draw(full, True) and 'Small' not in forest.draw(full, True)


def test_what_leaves_the_axis_ends_in_an_arrow():
    """And keeps its place inside the plot."""
    axis = forest._Axis(0.0, 100.0, 4)
    assert (axis(0.0), axis(-4.0), axis(9.0)) == (50.0, 0.0, 100.0)
    cut = ([-1.0, 1.0], [-9.0, 1.0], [-9.0, 9.0])
    assert [len(list(forest._arrows(axis, ends, [0.0], 5.0))) for ends in cut] == [0, 1, 2]


def test_a_mark_beyond_the_axis_stands_at_its_end_with_an_arrow_beside_it(found):
    """With and without an interval; the caption says what arrows are."""
    made = claims.collect(rows.load(found), json.loads((found / 'paper.json').read_text()))[:1]
    for estimates in (made[0].effect.estimates, ()):
        effect = dataclasses.replace(made[0].effect, mean=-50.0, estimates=estimates)
        plot = forest.draw([dataclasses.replace(made[0], effect=effect)], True)
        assert plot.count('<g transform="translate(270.0') == 1 and f'L{270 - forest.MARK}.0 ' in plot
    assert 'An arrow: ' in report._PLOT and 'beyond the axis' in plot


def test_a_row_that_the_report_cannot_make_sense_of_is_named(tmp_path, without_pictures):
    """Of the right types, and still none: the report of before stays as it was."""
    results = write_study(tmp_path)
    before = f'# {report.TITLES[0]}\n\nbefore'
    (results / 'README.md').write_text(before)
    row = make_row('V2', 1)
    row['sets']['pairs']['images']['output_rgb_psnr'] = [30.0] * 5  # of six images
    write(results, [row])
    with pytest.raises(UserError, match=r'small-V2-1\.json holds what the report cannot make sense of'):
        report.report(results)
    assert (results / 'README.md').read_text() == before


@pytest.mark.parametrize(
    'name', ['README.md', 'tables.md', 'report.html', 'figures/verdicts.svg', 'figures/speed_and_quality.svg']
)
def test_what_no_report_wrote_stays(reported, name, monkeypatch):
    """A page of that name is refused before anything is made; one of the report's own is made anew."""
    path = reported / name
    if name.endswith('quality.svg'):  # of what ships, which is not among these rows
        path.write_text(forest.element([], 9, 9, 'no scores', True))
    own = path.read_bytes()
    report._refuse_foreign(path)
    monkeypatch.setattr(report, '_make', lambda *_: pytest.fail('made'))
    for text in ('my notes', f'# {report.TITLES[0]}? No', ''):
        path.write_text(text)
        with pytest.raises(UserError, match=rf'{name} is not of this program.* Move it, or name another --results'):
            report.report(reported)
        assert path.read_text() == text
    path.write_bytes(own)


def test_a_picture_of_somebody_else_stays(found, monkeypatch):
    """Where no report lies yet; those of a report that was interrupted are replaced."""
    path = found / 'figures/scales.jpg'
    path.parent.mkdir(exist_ok=True)
    path.write_text('mine')
    monkeypatch.setattr(report, '_make', lambda *_: {})
    with pytest.raises(UserError, match=r'scales.jpg would be replaced, and no .*/README.md says that this'):
        report.report(found)
    path.unlink()

    def interrupted(*_):
        path.write_text('ours')
        raise KeyboardInterrupt

    monkeypatch.setattr(report, '_make', interrupted)
    with pytest.raises(KeyboardInterrupt):
        report.report(found)
    monkeypatch.setattr(report, '_make', lambda *_: {'tables.md': 'made'})
    report.report(found)
    assert (found / 'tables.md').read_text() == 'made'


def test_an_obstacle_of_every_claim_is_said_once(found, without_pictures):
    """One seed forbids every verdict on a set; the sentences leave that out and one line says it."""
    for path in (found / 'rows').glob('*-[12].json'):
        path.unlink()
    report.report(found)
    text = (found / 'tables.md').read_text()
    assert len(re.findall('^At small size pairs .6. counts for none of them: .*seed', text, re.MULTILINE)) == 1
    assert 'does not count' not in text


def test_studies_of_other_sizes_and_variants_stand_in_the_report(found, without_pictures):
    """Verdicts and tables as those of `small`; a variant of one's own beside the paper's setting, or alone."""
    write(found, [make_row(name, seed, shift, 'wide') for name, shift in (('V1', 0), ('V2', 1)) for seed in range(3)])
    own = {'variant': 'wider', 'overrides': {'model': {'scale_channels': 24}}}
    write(found, [make_row('paper', 0, 2.0, size) | own for size in ('small', 'mine')])
    report.report(found)
    text = (found / 'tables.md').read_text()
    assert 'Wide networks show it on pairs (6) (+1.00 dB).' in text and '| wide | Table 4 | The quasi-sparsity' in text
    _, small, *_ = re.split('#+ Studies, (?:mine|small|wide) size', text)[1:]
    assert re.search(r'Other variants\n.*?\| wider \| 1 \| 34\.50 / 0\.900 \| \+0\.49', small, re.DOTALL)
    mine = re.split('#+ Studies, mine size', text)[1]
    assert re.search(r'\| wider \| 1 \| 34\.50 / 0\.900 \|$', mine, re.MULTILINE)  # nothing to gain over


def test_variants_that_only_have_a_published_name_are_no_claim(found, without_pictures):
    """Of a study of one's own: they stand under a name of their own, and claim nothing."""
    for path in (found / 'rows').glob('*.json'):
        path.unlink()
    own = {'V1': {'quasi_sparsity': 0.0, 'detail': 0.0, 'auxiliary': 0.1}, 'V2': {'detail': 0.0, 'auxiliary': 0.1}}
    own['paper'] = {'auxiliary': 0.1}
    made = [make_row(name, seed, seed, overrides={'loss': own[name]}) for name in own for seed in range(3)]
    assert claims.collect([{**row, 'file': ''} for row in made], storage.read_json(found / 'paper.json')) == []
    report.report(write(found, made))
    text = (found / 'tables.md').read_text()
    others = re.split('#+ Other variants', text)[1]
    assert all(f'| {name} (of another study) | 3 |' in others for name in own)
    assert 'Verdicts in words' not in text and 'Which losses' not in text
    overview = (found / 'README.md').read_text()
    assert 'no row here bears on one' in overview and 'verdicts.svg' not in overview


def test_the_papers_figures_stand_in_the_report_with_their_numbers(found, reported, without_pictures):
    """Each that `figures` left: picture, caption and a table of scores or of sparsity; without any, no heading."""
    assert "The paper's figures" not in (reported / 'tables.md').read_text()
    (found / 'figures').mkdir(exist_ok=True)
    curve = {'excess': -1.422, 'mean': True, 'every': True}
    about = {'images': [{'name': 'cat', 'shown': None}], 'methods': [{'label': 'light'}]}
    scores = {'rgb_psnr': 26.651, 'rgb_ssim': None, 'y_psnr': 28.0, 'y_ssim': 0.9}
    made = {
        '10': {'scores': {'cat': {'input': scores}}},
        '9': {'curves': {'cat': {'input': curve}}},
        '2': {'curves': {'cat': curve}, 'not_sparse': {'dog': {**curve, 'mean': False}}},
    }
    for number, data in made.items():
        storage.write_json(found / f'figures/fig-{number}-drawn.json', {'figure': number, **about, **data})
        Image.new('RGB', (8, 8)).save(found / f'figures/fig-{number}-drawn.png')
    report.report(found)
    text = (found / 'tables.md').read_text()
    places = [text.index(f'(figures/fig-{number}-drawn.png)') for number in (2, 9, 10)]
    assert places == sorted(places) and text.count('Images: cat. Weights or method: light.') == 2 * 2
    assert '| cat | input | 26.65 / - | 28.00 / 0.900 |' in text
    assert '| cat | input | -1.42 | sparse |' in text and '| dog | input | -1.42 | not sparse |' in text


@pytest.mark.parametrize(
    ('record', 'picture', 'fault'),
    [
        ({'figure': '6'}, b'', r'fig-6-x\.json lacks methods, images\. Make the figure anew'),
        (
            {'figure': '5', 'methods': [], 'images': []},
            b'',
            r"fig-6-x\.json holds what .* \(KeyError: '5'\)\. Make the",
        ),
        ({'figure': '6', 'methods': [], 'images': []}, b'\x89PNG\r\n', r'fig-6-x\.png cannot be read .* or remove it'),
    ],
)
def test_a_damaged_figure_is_named_and_no_row(found, record, picture, fault, without_pictures):
    """Of its JSON or of its picture; a user who removed the row that was blamed would lose a good one."""
    (found / 'figures').mkdir(exist_ok=True)
    storage.write_json(found / 'figures/fig-6-x.json', record)
    storage.write_json(found / 'figures/fig-x-y.json', {})  # of somebody else
    (found / 'figures/fig-x-y.png').write_bytes(b'')
    (found / 'figures/fig-6-x.png').write_bytes(picture)
    with pytest.raises(UserError, match=fault):
        report.report(found)


def test_a_network_is_drawn_at_the_time_of_its_own_precision():
    """What was scored in float32 does not stand at the time of bfloat16."""
    model = dict.fromkeys(scatter._SHAPE, 1) | {'dtype': 'float32'}
    case = {'model': 'a', 'batch': 1, 'size': 512, 'training': False}
    cases = [{**case, 'precision': precision, 'peers': {'JAX': {'seconds': {'median': seconds}}}}
             for precision, seconds in (('bfloat16', 1.0), ('float32', 2.0))]  # fmt: skip
    config = {'model': model, 'bench': {'models': {}}}
    bench = {'kind': 'bench', 'file': 'gpu.json', 'cases': cases, 'provenance': {'config': config}}
    found = {dtype: scatter._time({'provenance': {'config': {'model': {**model, 'dtype': dtype}}}}, [bench])
             for dtype in ('float32', 'bfloat16', 'tf32')}  # fmt: skip
    assert found['float32'] == (pytest.approx(2e6 / 512**2), 'gpu, float32, 512²')
    assert found['bfloat16'] == (pytest.approx(1e6 / 512**2), 'gpu, bfloat16, 512²')
    assert found['tf32'] == (None, 'not timed')


def test_a_network_is_drawn_at_the_time_of_its_own_exchange():
    """Not at that of a faster one of its width; a row of when the setting was written otherwise finds its own."""
    model = {**dict.fromkeys(scatter._SHAPE, 1), 'dtype': 'float32'}
    case = {'batch': 1, 'size': 512, 'training': False, 'precision': 'float32'}
    cases = [{**case, 'model': name, 'peers': {'JAX': {'seconds': {'median': seconds}}}}
             for name, seconds in (('features', 1.0), ('all', 2.0))]  # fmt: skip
    models = {name: {'share_scales': name} for name in ('features', 'all')}
    bench = {'kind': 'bench', 'file': 'cpu.json', 'cases': cases,
             'provenance': {'config': {'model': model, 'bench': {'models': models}}}}  # fmt: skip
    for written, seconds in (('all', 2.0), (True, 2.0), ('features', 1.0), ('none', None)):
        row = {'provenance': {'config': {'model': {**model, 'share_scales': written}}}}
        assert scatter._time(row, [bench])[0] == (seconds and pytest.approx(seconds * 1e6 / 512**2))


def test_what_is_scored_again_is_drawn_once():
    """By the name that the package has for its weights, with its last scores."""
    psnr = {'y': {'psnr': 30.0}, 'input': {'y': {'psnr': 25.0}}, 'count': 3, 'fingerprint': {}}
    config = {'model': {}, 'data': {'root': None}}
    record = {'config': config, 'training': {'date': '2026', 'training_seconds': 9.0}}
    sets = {'none': psnr, 'one': psnr}
    study = {'kind': 'study', 'size': 'release-cpu', 'file': 'a.json', 'provenance': record, 'sets': sets}

    def scored(name, gain, date, **training):
        record = {'config': config, 'date': date, **training}
        return {**psnr, 'y': {'psnr': 25.0 + gain}, 'kind': 'evaluation', 'dataset': name, 'file': f'{date}.json',
                'provenance': record}  # fmt: skip

    training = {'training': record['training']}
    again = [scored('one', gain, f'2027-{gain}', **training) for gain in (1, 3, 2)]
    again += [scored('two', 4, '4', **training)]
    others = [scored('one', gain, f'other {gain}') for gain in (6, 7)]
    points = scatter.points([study, *again, *others], {'a.json': ['light']})
    assert [(each.network, each.sample, each.gain) for each in points] == [
        ('light', 'none (3)', 5), ('light', 'one (3)', 3), ('light', 'two (3)', 4), ('other 6', 'one (3)', 6),
        ('other 7', 'one (3)', 7)
    ]  # fmt: skip
    roots = [scored('pairs', gain, str(gain), **training) for gain in (8, 9)]
    for number, row in enumerate(roots):
        row['provenance']['config'] = {**config, 'data': {'root': f'root {number}'}}
    points = scatter.points([study, *roots], {'a.json': ['light']})
    assert [each.sample for each in points] == ['none (3)', 'one (3)', 'root 0 (3)', 'root 1 (3)']


def test_a_set_without_rain_is_no_point():
    """Its rainy images equal the true ones and have no PSNR; of others the gain is the paired one."""
    both = {protocol: {'psnr': 30.0, 'ssim': 0.9} for protocol in ('rgb', 'y')}
    none = {protocol: {'psnr': None, 'ssim': 1.0} for protocol in ('rgb', 'y')}
    part = {'count': 3, 'input': none, 'gain': none, 'fingerprint': {}, **both}
    paired = {**part, 'gain': {'y': {'psnr': 1.5}}, 'input': both}
    row = make_row('paper', 0, size='release') | {'file': 'a.json', 'sets': {'none': part, 'some': paired}}
    assert [point.gain for point in scatter.points([row], {'a.json': ['light']})] == [1.5]


def test_names_in_the_plot_of_speed_do_not_cover_each_other():
    """Every point has its name, a line below that of the point before, also where both have one place."""
    points = [scatter.Point(f'net {number}', 'set (6)', 1.0, None, 'cpu') for number in range(3)]
    plot = xml.etree.ElementTree.fromstring(scatter.draw(points, True))
    names = [each for each in plot.iter('text') if (each.text or '').startswith('net')]
    heights = sorted(float(each.get('y', 0)) for each in names)
    assert len(names) == 3 and np.diff(heights).min() >= 12


def test_sets_in_the_plot_of_speed_have_marks_of_their_own():
    """Fifteen: all differ, none is the mark of a verdict or has its colour, and the legend stays inside the plot."""
    names = [f'layers/RainTrainL+RainTrainH ({number})' for number in range(15)]
    points = [scatter.Point('net', name, 1.0, None, 'cpu') for name in names]
    marks = [scatter.mark(number) for number in range(len(points))]
    assert len({*marks, *map(forest.mark, forest.KINDS)}) == len(marks) + len(forest.KINDS)
    for is_wide in (True, False):
        plot = xml.etree.ElementTree.fromstring(scatter.draw(points, is_wide))
        groups = list(plot.iter('g'))
        assert len(groups) == 2 * len(points) and {each.get('class') for each in groups} == {'plain'}
        _, _, width, height = (float(each) for each in plot.get('viewBox', '').split())
        places = [[float(x) for x in re.findall('[0-9.]+', each.get('transform', ''))] for each in groups]
        assert max(x for x, _ in places) < width and max(y for _, y in places) < height
