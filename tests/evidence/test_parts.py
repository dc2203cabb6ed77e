"""Sections of the report that hold figures beside their tables."""

from made_rows import make_row

from qsnet_jax.evidence import parts, tables


def test_a_training_beside_torch_may_have_no_finite_score(tmp_path):
    """Null in its row, where every image was restored to the last bit."""
    row = {'kind': 'compare', 'file': 'compare-a.json', 'steps': 3, 'loss_difference': {'first': 1e-7}}
    made = [row | {'validation_psnr': {'jax': jax, 'torch': 30.0}} for jax in (30.5, None)]
    table = parts.beside_torch_items(made, tmp_path)[1]
    assert [cells[2:] for cells in table.rows] == [['30.50', '30.00', '0.50', '1e-07'], ['-', '30.00', '-', '1e-07']]


def test_others_are_timed_where_our_network_could_not_run(tmp_path):
    """Out of memory, say: their time stands without a ratio."""
    case = {'model': 'a', 'size': 512, 'batch': 1, 'training': False, 'precision': 'float32'}
    case['peers'] = {'PyTorch': {'seconds': {'median': 0.5}, 'ratio': None}}
    record = {'config': {'bench': {'models': {'a': {}}}}}
    row = {'kind': 'bench', 'file': 'gpu.json', 'cases': [case], 'provenance': record}
    table = parts.speed_items([row], {'table_2': {'QSNet': 0.005, 'QSNet without sharing': 0.007}}, tmp_path)[1]
    assert table.rows[-1] == ['a, PyTorch, float32', 'gpu', '0.500 s', '-']


def test_rows_of_the_same_files_have_the_same_scenes():
    """An older row tells scenes by name and so finds more of them: its interval would be the narrower one."""
    old, new = make_row('paper', 0), make_row('V1', 0)
    old['sets']['pairs']['images']['scene'] = list('abcdef')
    (scenes,) = parts._scenes([old, new]).values()
    assert scenes == new['sets']['pairs']['images']['scene']
    alone, together = (tables.interval(old['sets']['pairs'], names) for names in (list('abcdef'), scenes))
    assert alone == '30.54 .. 34.46' and together == '27.53 .. 37.47'


def test_a_network_that_is_not_the_default_is_said_so():
    """A row of before the default changed names the variant that it is today; what the variant sets is left out."""
    (line,) = parts._unlike_default({'paper': [make_row('paper', 0)]})
    assert line.startswith('At this size the network of `paper` is not that of `configs/default.py`: `model.channels`')
    assert 'share_scales' not in line
    row = make_row('paper', 0)
    row['provenance']['config']['model'] = {'share_scales': True}
    (line,) = parts._unlike_default({'paper': [row]})
    assert line.endswith("py`: `model.share_scales` is 'all', not 'features' (today the variant `images_exchanged`).")
    row['overrides'] = {'model': {'share_scales': True}}
    assert parts._unlike_default({'images_exchanged': [row]}) == []


def test_the_excess_of_an_image_that_is_not_sparse_is_said_with_its_filter(tmp_path):
    """Today's rows have the largest; those of before that of the row's filter, which may not be what refuses it."""
    share = {'d_x': {rule: {'share': 0.5, 'interval': [0.4, 0.6]} for rule in ('mean', 'every', 'beyond')}}
    row = {'kind': 'sparsity', 'name': 'real', 'count': 9, 'filter': 'd_x', 'share': share}
    old = {'name': 'a.png', 'filters': ['d_y'], 'excess': -2.06, 'contrast': 0.2}
    new = {**old, 'excess': 0.31, 'excess_of': 'd_y'}
    cells = [parts.sparsity_items([{**row, 'not_sparse': [each]}], tmp_path)[2].rows[0][2:4] for each in (old, new)]
    assert cells == [['d_y', '-'], ['d_y', '+0.31 (d_y)']]
