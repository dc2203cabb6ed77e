"""Training batches: batch = f(seed, step), read ahead by Grain's threads."""

from collections.abc import Iterator
from typing import Any

import cv2
import grain
import numpy as np

from qsnet_jax.data import sets, sources

Batch = dict[str, np.ndarray]


def fingerprints(opened: dict[str, sources.Source]) -> dict[str, dict[str, Any]]:
    """Of each source, by name."""
    return {name: sources.fingerprint(source) for name, source in opened.items()}


def deal(
    opened: dict[str, sources.Source], data: Any, seed: int, process: int = 0, processes: int = 1
) -> grain.MapDataset:
    """Endless training batches of the sources of `config.data`, as `sets.open_training` opens them.

    batches[k] is batch k, {'rainy', 'clean'} uint8 (batch / processes, crop, crop, 3), whoever asks and whenever. The
    elements of a global batch are dealt out to the processes in turn.
    """
    streams = [_samples(source, number, seed, data) for number, source in enumerate(opened.values())]
    weights = dict(sets.parse_names(data.train))
    mixed = streams[0] if len(streams) == 1 else grain.MapDataset.mix(streams, [weights[name] for name in opened])
    own = mixed[process::processes]
    return own.batch(data.batch // processes, drop_remainder=True)  # or Grain counts 2**63 batches of 1, too many


def _samples(source: sources.Source, number: int, seed: int, data: Any) -> grain.MapDataset:
    """Endless random crops of one source, every item once in each pass, in an order drawn anew for each."""

    crop, flip, brightness = data.crop, data.flip, data.brightness  # taken now: batches may not change with a config

    def sample(index: int, generator: np.random.Generator) -> Batch:
        rainy, clean = source.sample(int(index), crop, generator)
        if flip and generator.random() < 0.5:
            rainy, clean = rainy[:, ::-1], clean[:, ::-1]
        if brightness:
            gain = generator.uniform(1 - brightness, 1 + brightness)
            rainy, clean = sources.brightened(rainy, gain), sources.brightened(clean, gain)
        return {'rainy': rainy, 'clean': clean}

    own_seed = int(np.random.SeedSequence((seed, number)).generate_state(1)[0])
    return grain.MapDataset.range(len(source.names)).seed(own_seed).shuffle().repeat().random_map(sample)


def iterate(batches: grain.MapDataset, start: int, threads: int, prefetch: int) -> Iterator[Batch]:
    """Yields batches[start], batches[start + 1], ... while `threads` threads prepare up to `prefetch` ahead."""
    cv2.setNumThreads(1)  # the threads here are the parallelism; OpenCV's own would compete with them and with XLA's
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch)
    return iter(batches[start:].to_iter_dataset(options))
