"""What each scale decodes alone, Table 3: the auxiliary decoders of one training, scored beside the main one.

Paper:    C_1 to C_5 and all: Test-I 31.68, 32.14, 32.18, 30.75, 30.69, 33.15 dB; Test-II 23.86, 24.85, 24.91, 23.86,
          22.66, 25.66; Test-III 31.80, 32.56, 32.67, 31.48, 31.16, 33.94.
Run:      python -m qsnet_jax.main --mode=study --config=configs/scales.py:small --config.data.root=PAIRS
Cost:     3 runs beside those of losses.py, 7 min at reduced size on two CPU cores; 1.7e17 operations a run in full
Two readings: the auxiliary loss as printed, whose weight of 0.01 leaves the decoders poorly trained in a short run, and
a hundred times that.
"""

from qsnet_jax.configs import studies

VARIANTS = {'auxiliary_x100': {'loss.auxiliary': 1.0}}


def get_config(selection=''):
    return studies.make(VARIANTS, selection)
