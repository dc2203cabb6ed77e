"""QSNet at full size with the paper's recipe (Sec. 5.1); Table 1: Test-I 33.15 dB / 0.923, Test-II 25.66 dB / 0.830.

Run:      python -m qsnet_jax.main --config=configs/qsnet.py --config.data.root=FOLDER \\
              --config.data.train=pairs --config.data.eval=pairs
Where FOLDER holds train/ and test/ (or val/) with rainy and clean files. The paper's training set (1804.02688) was on
its author's page only; any set of pairs serves. One GPU.
"""

from qsnet_jax.configs import default


def get_config():
    config = default.get_config()
    config.data.train = 'pairs'
    config.data.eval = 'pairs'
    config.data.exclude = config.data.get_oneway_ref('eval')  # without which no claim gets a verdict
    return config
