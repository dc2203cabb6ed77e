"""Atrous rates of the scales C_2 to C_5; C_1 stays pointwise, and every set has the same number of parameters.

Paper:    1-2-4-6 (Sec. 4.1); no other set was tried there.
Run:      python -m qsnet_jax.main --mode=study --config=configs/atrous_rates.py:small --config.data.root=PAIRS
Cost:     7 runs a seed beside `paper`, 15 min at reduced size on two CPU cores; 1.7e17 operations a run in full
One:      --config=configs/atrous_rates.py:rates_1_1_1_1 or :small-rates_1_1_1_1, with any --mode
"""

from qsnet_jax.configs import studies

RATES = (
    *((1, 2, 3, 4), (1, 3, 6, 9), (2, 4, 8, 12)),
    *((1, 1, 1, 1), (2, 2, 2, 2), (4, 4, 4, 4), (6, 6, 6, 6)),  # one rate alone
)
VARIANTS = {'rates_' + '_'.join(map(str, rates)): {'model.rates': rates} for rates in RATES}


def get_config(selection=''):
    return studies.make(VARIANTS, selection)
