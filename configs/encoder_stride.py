"""Two open points of the architecture: the resolution of the encoder, and the norm outside its units.

Paper:    "features keep the same size as original rainy image": stride 1; the authors' later code strides by 4. The
          norm is not named; that code has instance norm outside the units, with which tiles and whole images differ.
Run:      python -m qsnet_jax.main --mode=study --config=configs/encoder_stride.py:small --config.data.root=PAIRS
Cost:     4 runs a seed beside `paper`, 10 min at reduced size on two CPU cores; in full up to 1.7e17 operations a run
One:      --config=configs/encoder_stride.py:stride_4 or :small-stride_4, with any --mode
"""

from qsnet_jax.configs import studies

VARIANTS = {
    'stride_2': {'model.encoder_stride': 2},
    'stride_4': {'model.encoder_stride': 4},
    'norm_instance': {'model.norm': 'instance'},
    'norm_none': {'model.norm': 'none'},
}


def get_config(selection=''):
    return studies.make(VARIANTS, selection)
