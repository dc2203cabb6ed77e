"""What --mode=bench times: bench.py itself for CPUs, :gpu for a card, :small for a first try (a minute).

:choices times the trained networks in the package under every runtime and says how good they are.
:sharing times the readings of "without sharing" (Table 5), each in the same rounds as the network itself.
:h100, :a100 and :rtx4090 compile for these cards on a machine without one (extra [aot]) and time nothing.
"""

from qsnet_jax.configs import default

CARDS = ('h100', 'a100', 'rtx4090')
MODELS = {
    'full size': {},
    'stride 4': {'encoder_stride': 4},
    'images exchanged too': {'share_scales': 'all'},
    'not shared': {'share_groups': False, 'share_scales': 'none'},
    'decoders without groups': {'share_groups': False, 'share_scales': 'none', 'decoder_groups': 1},
    'quickstart': {'channels': 24, 'units': 4, 'scale_channels': 12},
    'stride 2': {'encoder_stride': 2},
    'width 48': {'channels': 48, 'units': 6, 'scale_channels': 24},
}
ON_CPUS = ('full size', 'stride 2', 'stride 4', 'width 48', 'quickstart')


def get_config(where='cpu'):
    config = default.get_config()
    bench = config.bench = default.config_dict.ConfigDict()
    bench.models = default.config_dict.ConfigDict(MODELS, sort_keys=False)  # overrides of config.model
    bench.every = False  # every network takes all sizes, batches and trainings; else those after the first one of each
    bench.forms = ()  # of the network, beside the one that it takes by itself
    bench.rounds = 7  # in each, everybody runs once
    bench.name = ''  # in front of the device in the names of the files
    bench.shipped = False  # the trained networks in the package instead of `models`, with what they were scored
    bench.beside = ''  # one of `models` whose inference is timed in the same rounds as each of them, and nobody else
    bench.card = ''  # compiles for this card instead, see qsnet_jax/peers/cards.py
    bench.peers = True  # also PyTorch and the runtimes of the extra [bench]
    if where == 'cpu':
        bench.models = default.config_dict.ConfigDict({name: MODELS[name] for name in ON_CPUS}, sort_keys=False)
        bench.every = True
        bench.sizes, bench.batches, bench.precisions = (256, 512), (1,), ('float32',)
        bench.training = ((2, 96), (8, 96), (16, 96))  # images and their side
    elif where == 'gpu':
        bench.sizes, bench.batches, bench.precisions = (256, 512, 1024, 2048), (1, 8), ('float32', 'tf32', 'bfloat16')
        bench.training = ((8, 256),)
        bench.forms = ('plain', 'split', 'fused')
    elif where == 'small':
        bench.name = 'small'
        bench.models = {'quickstart': MODELS['quickstart']}
        bench.sizes, bench.batches, bench.precisions = (32, 64), (1, 2), ('float32',)
        bench.training = ((2, 32),)
        bench.forms = ('plain',)
        bench.rounds = 3
    elif where == 'choices':
        bench.name, bench.shipped = 'choices', True
        bench.sizes, bench.batches, bench.precisions = (512,), (1,), ('float32',)
        bench.training = ()
    elif where == 'sharing':
        bench.name = 'sharing'
        names = ('full size', 'images exchanged too', 'not shared', 'decoders without groups')
        bench.models = default.config_dict.ConfigDict({name: MODELS[name] for name in names}, sort_keys=False)
        bench.beside, bench.peers = 'full size', False
        bench.sizes, bench.batches, bench.precisions = (256,), (1,), ('float32',)
        bench.training = ()
    elif where in CARDS:
        bench.card = where
        bench.models = {'full size': MODELS['full size']}
        bench.sizes, bench.batches, bench.precisions = (512,), (8,), ('bfloat16', 'tf32')
        bench.training = ((8, 256),)
        bench.forms = ('dense', 'fused', 'split', 'plain')  # the first is that of cards, and takes every case
    else:
        known = ', '.join(f':{name}' for name in ('cpu', 'gpu', 'small', 'choices', 'sharing', *CARDS))
        raise ValueError(f'configs/bench.py:{where} is not known; write one of {known}.')
    return config
