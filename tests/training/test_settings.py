"""What no run can use is refused by name before it begins; what can be used passes."""

import math

import pytest

from qsnet_jax import UserError
from qsnet_jax.training import settings

FLOATS = (
    *('train.learning_rate', 'train.clip', 'train.rain_gain', 'train.plateau_floor', 'train.average'),
    *('loss.content', 'loss.detail', 'loss.detail_threshold', 'data.cache_gib', 'data.vary_layers'),
)


def refused(config, name, value, message):
    """Whether a value is refused in these words."""
    config.update_from_flattened_dict({name: value})
    with pytest.raises(UserError, match=message) as error:
        settings.check_fields(config)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize('name', FLOATS)
def test_what_is_not_finite_is_refused_by_name(tiny_config, name, value):
    refused(tiny_config, name, value, rf'^{name} is {value}; expected a finite number')


@pytest.mark.parametrize('seed', [-1, 2**63, 10**30])
def test_seeds_that_no_generator_takes(tiny_config, seed):
    refused(tiny_config, 'seed', seed, f'^seed is {seed}; expected a whole number from 0 to')


@pytest.mark.parametrize(
    ('name', 'value', 'message'),
    [
        ('train.learning_rate', 0.0, 'it must be more than 0'),
        ('train.learning_rate', -1e-3, 'it must be more than 0'),
        ('train.rain_gain', -1.0, 'it must be at least 0'),
        ('train.clip', -1.0, 'it must be at least 0'),
        ('train.plateau_floor', -0.1, r'it must be in \[0, 1\]'),
        ('loss.content', -1.0, 'it must be at least 0'),
        ('loss.auxiliary', -1.0, 'it must be at least 0'),
        ('data.cache_gib', -4.0, 'it must be at least 0'),
    ],
)
def test_numbers_without_sense(tiny_config, name, value, message):
    refused(tiny_config, name, value, f'^{name} is {value}; {message}')


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'model.rates': (1.5, 2)}, r'rates is \(1.5, 2\); expected whole numbers'),
        ({'model.rates': ('a', 'b')}, 'expected whole numbers'),
        ({'model.units': 60}, 'model.units has 60; 48 is the most'),
        ({'model.rates': tuple(range(1, 14))}, 'has 13; 12 is the most'),
        ({'model.rates': (1, 2000)}, 'model.rates has 2000; 1024 is the most'),
        ({'model.channels': 768, 'model.scale_channels': 384, 'model.units': 12, 'model.rates': (1, 2, 4, 6)}, 'bytes'),
        ({'loss.filters': 'x'}, 'loss.filters'),
        ({'train.schedule': 'x'}, 'train.schedule'),
    ],
)
def test_a_network_that_nobody_could_read_again_and_a_loss_without_meaning(tiny_config, changes, message):
    """The limits of weights hold before training, not after it."""
    settings.check_fields(tiny_config)
    tiny_config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=message):
        settings.check_fields(tiny_config)


def test_the_largest_network_that_can_be_read_may_be_trained(tiny_config):
    tiny_config.model.update({'units': 48, 'rates': (1024, *range(1, 12))})
    tiny_config.seed = 2**63 - 1
    settings.check_fields(tiny_config)


@pytest.mark.parametrize(
    'field, value, expected',
    [
        ('train.clip', None, 'a number'),
        ('train.steps', 2.5, 'a whole number'),
        ('train.steps', True, 'a whole number'),
        ('data.flip', None, 'True or False'),
        ('data.eval', None, 'text'),
        ('data.validation', 5, 'text'),
        ('data.exclude', 5, 'text'),
        ('data.exclude', True, 'text'),
        ('model.rates', None, r'several values, as \(1, 2\)'),
        ('sparsity.bins', None, 'a whole number'),
    ],
)
def test_a_value_of_another_kind_is_told_as_such(tiny_config, field, value, expected):
    """As somebody's own config may hold; fields that are None by default take what they take."""
    section, name = field.split('.')
    with tiny_config.ignore_type():
        tiny_config[section][name] = value
    with pytest.raises(UserError, match=f'{field} is {value}; expected {expected}'):
        settings.check_fields(tiny_config)


def test_what_stands_for_a_value_is_taken(tiny_config):
    """A whole number for any number, names of sets one by one, rates as a list."""
    tiny_config.train.clip = 1
    with tiny_config.ignore_type():
        tiny_config.data.eval = tiny_config.data.exclude = ('pairs',)
        tiny_config.model.rates = [2]
    settings.check_fields(tiny_config)
