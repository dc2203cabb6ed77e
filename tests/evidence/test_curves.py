"""Curves of validations as figures and tables."""

from made_rows import make_row

from qsnet_jax.evidence import curves, styles


def test_validations_without_a_finite_score_are_gaps():
    """Null in a row, where every image was restored to the last bit: no point, '-' in the table, no seed in a mean."""
    first, second = make_row('paper', 0), make_row('paper', 1)
    for row in (first, second):
        row['curve'] = [{**line, 'seconds': 2.0 * line['step']} for line in row['curve']]
    first['curve'][1]['validation_psnr'] = None
    assert [cells[-1] for cells in curves.table_of_validations([first]).rows] == ['29.00', '-']
    table = curves.table_of_curves({'paper': [first, second]}, 'small')
    assert [cells[1:4] for cells in table.rows] == [['200', '2', '29.00'], ['400', '1', '30.00']]
    for figure in (curves.draw_validations([first]), curves.draw_curves({'paper': [first, second]}, {})):
        figure.canvas.draw()


def test_curves_differ_in_more_than_their_colour():
    """Twelve variants in one panel, as ten colours are not enough: each has a mark and a dash of its own."""
    found = {f'variant {number}': [make_row('paper', 0), make_row('paper', 1)] for number in range(12)}
    lines = [line for line in curves.draw_curves(found, {}).axes[0].lines if not line.get_label().startswith('_')]
    assert len({(line.get_marker(), str(line._dash_pattern)) for line in lines}) == len(lines) == 12
    row = make_row('paper', 0)
    more = {'seconds': 1.0, 'validation_psnr/a': 1.0, 'validation_psnr/b': 1.0}
    row['curve'] = [{**line, **more} for line in row['curve']]
    first, second = curves.draw_validations([row]).axes[0].lines
    assert first.get_marker() != second.get_marker() and first._dash_pattern != second._dash_pattern


def test_styles_repeat_late():
    """Of 28 no two have the same mark and dash; lines and points alone differ from their neighbours."""
    made = [styles.both(number) for number in range(28)]
    assert len({(each['marker'], each['linestyle']) for each in made}) == 28
    assert all(first['color'] != second['color'] for first, second in zip(made, made[1:], strict=False))
