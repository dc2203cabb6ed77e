"""Curves of validations as figures and tables."""

from made_rows import make_row

from qsnet_jax.evidence import curves


def test_validations_without_a_finite_score_are_gaps():
    """Null in a row, where every image was restored to the last bit: no point, '-' in the table, no seed in a mean."""
    first, second = make_row('paper', 0), make_row('paper', 1)
    for row in (first, second):
        row['curve'] = [{**line, 'seconds': 2.0 * line['step']} for line in row['curve']]
    first['curve'][1]['validation_psnr'] = None
    assert [cells[-1] for cells in curves.table_of_validations([first]).rows] == ['29.00', '-']
    table = curves.table_of_curves({'paper': [first, second]}, 'small')
    assert [cells[1:4] for cells in table.rows] == [['200', '2', '29.00'], ['400', '1', '30.00']]
    for figure in (curves.draw_validations([first]), curves.draw_curves({'paper': [first, second]})):
        figure.canvas.draw()
