"""Sections of the report that hold figures beside their tables."""

from qsnet_jax.evidence import parts


def test_a_training_beside_torch_may_have_no_finite_score(tmp_path):
    """Null in its row, where every image was restored to the last bit."""
    row = {'kind': 'compare', 'file': 'compare-a.json', 'steps': 3, 'loss_difference': {'first': 1e-7}}
    made = [row | {'validation_psnr': {'jax': jax, 'torch': 30.0}} for jax in (30.5, None)]
    table = parts.beside_torch_items(made, tmp_path)[1]
    assert [cells[2:] for cells in table.rows] == [['30.50', '30.00', '0.50', '1e-07'], ['-', '30.00', '-', '1e-07']]
