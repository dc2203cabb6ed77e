"""Which items belong together because they share something, also by way of others."""

import numpy as np
import scipy.sparse.csgraph


def join(*labels: list[str]) -> list[str]:
    """Groups of items that share a label of any list, also by way of others; named by the last list's first label.

    ['x', 'y', 'y'] and ['a', 'a', 'b'] are one group, 'a'.
    """
    count = len(labels[0])
    numbers = [np.unique(each, return_inverse=True)[1] for each in labels]
    offsets = np.cumsum([0, *(each.max(initial=-1) + 1 for each in numbers)])
    nodes = np.concatenate([count + offset + each for offset, each in zip(offsets, numbers, strict=False)])
    items = np.tile(np.arange(count), len(labels))
    edges = scipy.sparse.coo_array((np.ones(nodes.size), (items, nodes)), shape=2 * (count + int(offsets[-1]),))
    found = scipy.sparse.csgraph.connected_components(edges, directed=False)[1][:count]
    first: dict[int, str] = {}
    return [first.setdefault(int(number), label) for number, label in zip(found, labels[-1], strict=True)]
