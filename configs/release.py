"""The weights that come with the package: trained on every kind of streak that there is, for photos of any origin.

Run:      launch/release.sh FOLDER, which trains `default`, goes on with `further` and from there with two specialists;
          `wide` has more stretches: `longer`, `fourth`, `fifth`, `sixth` and `seventh`, from which the two begin;
          each of them goes on once more, `light_further` and `heavy_further`
On CPUs:  launch/release.sh FOLDER wide: full width, everything after the first convolution at half the resolution;
          launch/release.sh FOLDER cpu: 48 channels and 6 units, images exchanged too, as released first
Expect:   cpu, 94, 112, 41 and 44 minutes on two cores; the general weights y 33.5 dB on RainTrainL/val (rainy 27.0),
          24.5 on the heavy hold-out (15.2), 21.8 on Rain800/val (22.5; 39 of its 47 are darkened as a whole), `light`
          34.3 on the first, `heavy` 25.5 on the second; wide, after `seventh`, 33.7, 24.5 and 22.0, after
          `light_further` 34.6 on the first, after `heavy_further` 26.1 on the second; its first stretch was another
          one then (results/training/README.md). Stride 1 at full width is not trained yet.
Where FOLDER holds RainTrainL/{train,val}/{clean,layer}, RainTrainH/train/layer, Streaks_Garg06/*.png (measured layers)
and Rain800/{train,val}/*.jpg. Every third layer of RainTrainH and of Streaks_Garg06 is left out of training.
"""

from qsnet_jax.configs import default, studies

LIGHT, HEAVY, GARG06 = (f'layers/RainTrainL+{name}' for name in ('RainTrainL', 'RainTrainH', 'Streaks_Garg06'))
DRAWN_LIGHT, DRAWN_HEAVY, DRAWN_WIDE = (f'drawn_{style}/RainTrainL/train/clean' for style in ('light', 'heavy', 'wide'))
RAIN800 = 'rain800/train'
VARIANTS = {  # weights of the sources in each mixture; none sees a background or a layer of the validation sets
    'default': {LIGHT: 4, HEAVY: 3, GARG06: 1, RAIN800: 2, DRAWN_LIGHT: 0.5, DRAWN_HEAVY: 0.5, DRAWN_WIDE: 0.5},
    'further': {LIGHT: 5, HEAVY: 1.5, GARG06: 0.5, RAIN800: 2.5, DRAWN_LIGHT: 0.5, DRAWN_HEAVY: 0.25, DRAWN_WIDE: 0.25},
    'light': {LIGHT: 4, GARG06: 1, DRAWN_LIGHT: 0.5, DRAWN_WIDE: 0.5},
    'heavy': {HEAVY: 4, RAIN800: 1, DRAWN_HEAVY: 1},
}
STRETCHES: dict[str, tuple[str, float, dict]] = {  # from, share of steps, settings
    'further': ('default', 1.2, {}),
    'light': ('further', 0.5, {}),
    'heavy': ('further', 0.5, {}),
}
WIDE = {LIGHT: 4, HEAVY: 4, GARG06: 1, RAIN800: 2, DRAWN_LIGHT: 0.5, DRAWN_HEAVY: 1, DRAWN_WIDE: 0.5}
WIDER = WIDE | {LIGHT: 6, HEAVY: 3, GARG06: 0.5, DRAWN_HEAVY: 0.5}  # thin streaks had further to go
WIDE_VARIANTS = (
    {'default': WIDE, 'further': WIDE, 'longer': WIDER}
    | dict.fromkeys(('fourth', 'fifth', 'sixth', 'seventh'), WIDER | {LIGHT: 8})
    | {name + end: VARIANTS[name] for end in ('', '_further') for name in ('light', 'heavy')}
)
LARGE = {'data.crop': 96, 'data.batch': 8, 'train.schedule': 'cosine'}
AS_THEY_FALL = {'data.batch': 4, 'data.turn_layers': 0.0, 'data.join_layers': 0.0}
MUON = {'train.optimizer': 'muon', 'train.learning_rate': 1.5e-3}
WIDE_STRETCHES = {
    'further': ('default', 0.6, LARGE),
    'longer': ('further', 1.0, LARGE),
    'fourth': ('longer', 0.3, LARGE | AS_THEY_FALL),
    'fifth': ('fourth', 1.0, LARGE | AS_THEY_FALL),
    'sixth': ('fifth', 1.1, LARGE | AS_THEY_FALL | MUON),
    'seventh': ('sixth', 1.0, LARGE | AS_THEY_FALL | MUON),
    'light': ('seventh', 0.7, LARGE | AS_THEY_FALL | MUON),
    'heavy': ('seventh', 0.7, LARGE | AS_THEY_FALL | MUON),
    'light_further': ('light', 0.4, LARGE | AS_THEY_FALL | MUON),
    'heavy_further': ('heavy', 0.7, LARGE | AS_THEY_FALL | MUON),
}
SIZES = ('cpu', 'wide')  # beside the full one
NOTE = (
    'Weights: Apache-2.0. They were trained on images that may be used for research only or whose licence is unstated '
    '(RainTrainL, RainTrainH and their BSDS500 backgrounds, Rain800, streaks of Garg and Nayar 2006); none is included.'
)


def get_config(selection=''):
    size, name = studies.split(selection, *SIZES)
    config = default.get_config()
    config.note = NOTE
    config.loss.detail_threshold = 8 / 255  # Rain800's JPEG differences are no rain
    config.data.eval = f'layers/RainTrainL,rain800/val,{HEAVY}'
    config.data.exclude = config.data.get_oneway_ref('eval')
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
    variants, stretches = (WIDE_VARIANTS, WIDE_STRETCHES) if size == 'wide' else (VARIANTS, STRETCHES)
    if size:
        {'cpu': _small, 'wide': _wide}[size](config)
    config.data.train = _mixture(variants['default'])
    study = f'release-{size}' if size else 'release'
    overrides = {variant: {'data.train': _mixture(mixture)} for variant, mixture in variants.items()}
    for variant, (start, steps, settings) in stretches.items():
        overrides[variant] |= {
            'train.start_from': f'{{workdir}}/{start}-{{seed}}/weights.safetensors',
            'train.learning_rate': config.train.learning_rate / 2,
            'train.steps': int(config.train.steps * steps),
            **settings,
        }
    return studies.arrange(config, study, overrides, name, seeds=(0,), sizes=SIZES)


def _small(config):
    """48 channels and 6 units at full resolution: five hours on two cores."""
    config.model.channels = 48
    config.model.units = 6
    config.model.scale_channels = 24
    config.model.share_scales = 'all'
    config.data.crop = 64
    config.data.batch = 8
    config.train.steps = 10_000
    config.train.learning_rate = 3e-3
    config.train.eval_every = config.train.checkpoint_every = 1000


def _wide(config):
    """Full width at half the resolution, with more varied layers and averaged weights: hours, stretch by stretch."""
    config.model.encoder_stride = 2
    config.data.turn_layers = 15.0
    config.data.join_layers = 0.3
    config.data.crop = 64  # small crops first, which a short trial favoured: WEIGHTS.md
    config.data.batch = 4
    config.train.steps = 5000
    config.train.schedule = 'constant'
    config.train.learning_rate = 1.5e-3
    config.train.average = 0.999
    config.train.eval_every = config.train.checkpoint_every = 1000


def _mixture(weights):
    """The value of data.train."""
    return ','.join(f'{source}:{weight}' for source, weight in weights.items())
