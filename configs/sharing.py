"""Information sharing, Table 5: shuffles between the groups of the decoders, and the exchange between the scales.

Paper:    without / with: Test-I 31.91 / 33.15 dB, Test-II 25.53 / 25.66, Test-III 32.64 / 33.94, and 7 / 5 ms. It
          does not say what exactly is left out. `not_shared` leaves out both kinds of shuffle, which cannot make it
          slower; `not_grouped` has decoders without groups, which have nothing to share and are slower. Each of the two
          kinds is also left out alone, and `images_exchanged` shuffles the restored images together with the features.
Run:      python -m qsnet_jax.main --mode=study --config=configs/sharing.py:small --config.data.root=PAIRS
Cost:     15 runs beside those of losses.py, 2 min each at reduced size on two cores; 1.7e17 operations a run in full
One:      --config=configs/sharing.py:not_shared or :small-not_shared, with any --mode
"""

from qsnet_jax.configs import studies

VARIANTS = {
    'not_shared': {'model.share_groups': False, 'model.share_scales': 'none'},
    'not_grouped': {'model.share_groups': False, 'model.share_scales': 'none', 'model.decoder_groups': 1},
    'groups_apart': {'model.share_groups': False},
    'scales_apart': {'model.share_scales': 'none'},
    'images_exchanged': {'model.share_scales': 'all'},
}


def get_config(selection=''):
    return studies.make(VARIANTS, selection)
