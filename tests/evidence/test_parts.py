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
