"""The whole program in minutes on a laptop's CPU: a narrow QSNet, rain drawn on photos that come with scikit-image.

Run:      python -m qsnet_jax.main --config=configs/quickstart.py
Own data: add --config.data.root=FOLDER --config.data.train=pairs --config.data.eval=pairs --workdir=runs/pairs
"""

from qsnet_jax.configs import default


def get_config():
    config = default.get_config()
    config.model.channels = 24
    config.model.units = 4
    config.model.scale_channels = 12
    config.data.train = 'drawn_light'
    config.data.eval = 'drawn_light'
    config.data.crop = 64
    config.data.batch = 4
    config.data.flip = True
    config.train.steps = 800
    config.train.learning_rate = 3e-3
    config.train.rain_gain = 0.05
    config.train.schedule = 'cosine'
    config.train.log_every = 20
    config.train.eval_every = 200
    config.train.eval_images = 3
    config.train.checkpoint_every = 200
    return config
