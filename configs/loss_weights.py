"""The weights of the loss, each a tenth of, ten and a hundred times the paper's, and the range of the pixels.

Paper:    lambda_Q = 1e-3, lambda_D = 1e-4, lambda_A = 1e-2 beside lambda_C = 1 (Sec. 5.1); whether images are in [0, 1]
          or [0, 255] is not said, and multiplies the squared auxiliary loss by 255 beside the others.
Run:      python -m qsnet_jax.main --mode=study --config=configs/loss_weights.py:small --config.data.root=PAIRS
Cost:     10 runs a seed beside `paper`, 22 min at reduced size on two CPU cores; 1.7e17 operations a run in full
One:      --config=configs/loss_weights.py:detail_x100 or :small-detail_x100, with any --mode
"""

from qsnet_jax.configs import studies

LAMBDAS = {'quasi_sparsity': 1e-3, 'detail': 1e-4, 'auxiliary': 1e-2}
VARIANTS = {
    **{
        f'{term}_{name}': {f'loss.{term}': weight * factor}
        for term, weight in LAMBDAS.items()
        for name, factor in (('x01', 0.1), ('x10', 10.0), ('x100', 100.0))
    },
    'pixel_range_255': {'loss.pixel_range': 255.0},
}


def get_config(selection=''):
    return studies.make(VARIANTS, selection)
