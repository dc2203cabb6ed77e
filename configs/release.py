"""The weights that come with the package: trained on every kind of streak that there is, for photos of any origin.

Run:      python -m qsnet_jax.main --config=configs/release.py --config.data.root=FOLDER
On CPUs:  --config=configs/release.py:cpu, a network of 48 channels and 6 units
Where FOLDER holds RainTrainL/{train,val}/{clean,layer}, RainTrainH/train/layer, Streaks_Garg06/*.png (measured layers)
and Rain800/{train,val}/*.jpg. Every third layer of RainTrainH and of Streaks_Garg06 is left out of training.
"""

from configs import default

LIGHT, HEAVY, RAIN800 = 'layers/RainTrainL', 'layers/RainTrainL+RainTrainH', 'rain800/val'
SOURCES = {  # weights in the mixture; none sees a background or a layer of the validation sets
    'layers/RainTrainL+RainTrainL': 4,
    HEAVY: 3,
    'layers/RainTrainL+Streaks_Garg06': 1,
    'rain800/train': 2,
    'drawn_light/RainTrainL/train/clean': 0.5,
    'drawn_heavy/RainTrainL/train/clean': 0.5,
    'drawn_wide/RainTrainL/train/clean': 0.5,
}


def get_config(size=''):
    if size not in ('', 'cpu'):
        raise ValueError(f'{size!r} is not known; write configs/release.py for GPUs or configs/release.py:cpu.')
    config = default.get_config()
    config.loss.detail_threshold = 8 / 255  # Rain800's JPEG differences are no rain
    config.data.train = ','.join(f'{name}:{weight}' for name, weight in SOURCES.items())
    config.data.eval = f'{LIGHT},{RAIN800},{HEAVY}'
    config.data.exclude = config.data.eval
    config.data.partial = True  # Rain800: 335 and 47 of its pairs
    config.data.vary_layers = 1.3
    config.data.flip = True
    config.data.brightness = 0.2
    config.data.crop = 128
    config.data.batch = 16
    config.train.steps = 60_000
    config.train.schedule = 'cosine'
    config.train.rain_gain = 0.05
    config.train.eval_sets = 3
    config.train.eval_images = 8
    config.train.eval_every = config.train.checkpoint_every = 2000
    if size == 'cpu':
        config.model.channels = 48
        config.model.units = 6
        config.model.scale_channels = 24
        config.data.crop = 64
        config.data.batch = 8
        config.train.steps = 10_000
        config.train.learning_rate = 3e-3
        config.train.eval_every = config.train.checkpoint_every = 1000
    return config
