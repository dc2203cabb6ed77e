"""The public name of `qsnet_jax.weights.files`, where scripts import it."""

from qsnet_jax.weights.files import find_weights, load_record, load_weights, save_weights

__all__ = ['find_weights', 'load_record', 'load_weights', 'save_weights']
