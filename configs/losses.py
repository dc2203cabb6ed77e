"""Loss ablation, Table 4: V1 content, V2 + quasi-sparsity, V3 + detail, V4 (here `paper`) + auxiliary loss.

Paper:    Test-I 29.94 / 31.70 / 32.03 / 33.15 dB, Test-II 24.75 / 25.21 / 25.55 / 25.66, Test-III 31.19 / 32.61 /
          32.91 / 33.94 for V1 to V4.
Run:      python -m qsnet_jax.main --mode=study --config=configs/losses.py:small --config.data.root=PAIRS
Cost:     12 runs, half an hour at reduced size on two CPU cores; 1.7e17 operations a run in full
One:      --config=configs/losses.py:V1 or :small-V1, with any --mode
"""

from qsnet_jax.configs import studies

VARIANTS = {
    'V1': {'loss.quasi_sparsity': 0.0, 'loss.detail': 0.0, 'loss.auxiliary': 0.0},
    'V2': {'loss.detail': 0.0, 'loss.auxiliary': 0.0},
    'V3': {'loss.auxiliary': 0.0},
}


def get_config(selection=''):
    return studies.make(VARIANTS, selection)
