"""What all studies share: three sizes, seeds, and how a variant is made of a few overrides. Not a config itself."""

import functools

from qsnet_jax.configs import default, qsnet, quickstart

SEEDS = (0, 1, 2)
SIZES = ('small', 'wide')  # beside the full one
PAPER = 'paper'  # the variant without overrides, the same in every study and trained once for all of them


def make(variants, selection):
    """The config of a study.

    Args:
      variants: {name: {'section.field': value}}; PAPER: {} is added in front.
      selection: '' for all of them at full size; 'small' at the quickstart's width and 'wide' at full width and half
        the resolution, both for CPUs; 'NAME', 'small-NAME' or 'wide-NAME' for one alone, as a config to train and
        evaluate by itself.
    """
    size, name = split(selection, *SIZES)
    config = {'': qsnet.get_config, 'small': small, 'wide': wide}[size]()
    return arrange(config, size or 'full', {PAPER: {}, **variants}, name, sizes=SIZES)


def split(selection, *sizes):
    """(size, variant) of 'SIZE', 'VARIANT', 'SIZE-VARIANT' or ''; both may be ''."""
    size, _, name = selection.partition('-')
    return (size, name) if size in sizes else ('', selection)  # names of variants may have hyphens


def arrange(config, size, variants, name='', seeds=SEEDS, sizes=()):
    """A study of these variants of a config, {name: {'section.field': value}}, or the variant `name` alone.

    sizes: others that the study has, for the message where there is no such variant.
    A variant whose `train.start_from` names '{workdir}/OTHER-{seed}/weights.safetensors' starts from what another one
    leaves, in the folder of the study at hand; chosen alone, in the one that a study has without --workdir.
    """
    config.study = default.config_dict.ConfigDict()
    config.study.size = size
    config.study.seeds = seeds
    config.study.variants = default.config_dict.ConfigDict(
        {variant: _nested(variant, overrides) for variant, overrides in variants.items()}, sort_keys=False
    )
    return fill(_choose(config, name, sizes), f'runs/{size}') if name else config


def select(config, name):
    """The config of one variant of a study's config, to which fields may have been overridden.

    Where `data.exclude` is `data.eval` it follows the variant's own `data.eval`, as by the reference that a copy loses.
    """
    chosen = _choose(config.copy_and_resolve_references(), name)
    own = config.study.variants[name].get('data', {})
    if config.data.exclude == config.data.eval and 'exclude' not in own:
        chosen.data.exclude = chosen.data.eval
    return chosen


def fill(config, workdir):
    """Names the file that a variant starts from: {workdir} of `train.start_from` is this one, {seed} that of its run.

    The latter by reference, for a command gives --config.seed later.
    """
    if start := config.train.start_from:
        first, *rest = (part.replace('{workdir}', str(workdir)) for part in start.split('{seed}'))
        seed = config.get_oneway_ref('seed').to_str()
        config.train.start_from = functools.reduce(lambda path, part: path + seed + part, rest, first)
    return config


def _choose(config, name, sizes=()):
    """Turns a study's config into that of one variant; fields without a value can still be overridden."""
    if name not in config.study.variants:
        variants = list(config.study.variants)
        end = f'; and {" and ".join(sizes)}, all of them at that size, as in {sizes[0]}-{variants[0]}' if sizes else ''
        raise ValueError(f'There is no variant {name!r}; there are {", ".join(variants)}{end}.')
    overrides = config.study.variants[name].to_dict()
    with config.unlocked():
        del config.study
    config.update(overrides)
    return config


def small():
    """Reduced size: the quickstart's network on pairs (--config.data.root) and drawn heavy rain; minutes a run."""
    return _on_pairs_and_heavy_rain(quickstart.get_config())


def wide():
    """Full width, after the first convolution at half the resolution, on the same data: some 20 minutes a run."""
    config = _on_pairs_and_heavy_rain(quickstart.get_config())
    config.model.update({'channels': 132, 'units': 12, 'scale_channels': 66, 'encoder_stride': 2})
    config.train.steps = 1500
    config.train.learning_rate = 1e-3
    return config


def _on_pairs_and_heavy_rain(config):
    """What the two sizes for CPUs share."""
    config.data.train = 'pairs,drawn_heavy'
    config.data.eval = 'pairs,drawn_heavy,drawn_wide'
    config.data.exclude = config.data.get_oneway_ref('eval')
    config.train.steps = 400
    config.train.eval_every = 200
    config.train.eval_images = 8
    config.train.checkpoint_every = 200
    return config


def _nested(variant, overrides):
    """{'loss.detail': 0.0} as {'loss': {'detail': 0.0}}."""
    nested = {}
    for path, value in overrides.items():
        if path.count('.') != 1:
            raise ValueError(f'variant {variant!r} overrides {path!r}; write SECTION.FIELD, as in train.steps.')
        section, field = path.split('.')
        nested.setdefault(section, {})[field] = value
    return nested
