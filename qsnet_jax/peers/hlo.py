"""A program that XLA compiled for a card, read from its text: what is launched, and the bytes and operations of each.

Reads are counted where a launch starts and writes where it ends: what a fusion computes between moves nothing. Of an
array of which a fusion reads slices alone, these count.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

SIZES = {'pred': 1, 's8': 1, 'u8': 1, 'bf16': 2, 'f16': 2, 's16': 2, 'u16': 2, 'f32': 4, 's32': 4, 'u32': 4}
SIZES |= {'f64': 8, 's64': 8, 'u64': 8}
FREE = ('parameter', 'constant', 'bitcast', 'tuple', 'get-tuple-element', 'after-all')  # nothing runs for these
_ARRAY = re.compile(r'\b([a-z]+[0-9]*)\[([0-9,]*)\]')
_COMPUTATION = re.compile(r'^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$')
_INSTRUCTION = re.compile(r'^\s+(?:ROOT )?%([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$')


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line: its result's type, what it does, names of its operands, and the rest of the line."""

    name: str
    type: str
    operation: str
    operands: tuple[str, ...]
    argument: str
    rest: str


@dataclasses.dataclass(frozen=True)
class Launch:
    """Something that the card is told to do: what it is called, bytes read and written, operations of products."""

    kind: str
    source: str  # the operation of the network that it came from
    bytes: int
    operations: float
    estimate: float | None  # seconds that XLA expects, where it tells


def launches(text: str) -> list[Launch]:
    """All launches of a compiled program, in order."""
    computations, entry = _parse(text)
    types = {each.name: each.type for each in computations[entry]}
    return [_launch(each, types, computations) for each in computations[entry] if each.operation not in FREE]


def _parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """Instructions by computation, and the name of the one that is run."""
    computations: dict[str, list[Instruction]] = {}
    entry = name = ''
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            name = match[2]
            computations[name] = []
            entry = name if match[1] else entry
        elif name and (match := _INSTRUCTION.match(line)):
            argument, rest = _closed(match[4])
            operands = tuple(re.findall(r'%([\w.\-]+)', argument))
            computations[name].append(Instruction(match[1], match[2], match[3], operands, argument, rest))
    return computations, entry


def _closed(text: str) -> tuple[str, str]:
    """What stands before the parenthesis that closes, and after it."""
    depth = 1
    for at, letter in enumerate(text):
        depth += (letter == '(') - (letter == ')')
        if depth == 0:
            return text[:at], text[at + 1 :]
    return text, ''


def _arrays(kind: str) -> Iterator[tuple[str, list[int]]]:
    """Type and shape of each array in a type."""
    for name, shape in _ARRAY.findall(kind):
        if name in SIZES:
            yield name, [int(extent) for extent in shape.split(',') if extent]


def _bytes(kind: str) -> int:
    return sum(SIZES[name] * math.prod(shape) for name, shape in _arrays(kind))


def _launch(each: Instruction, types: dict[str, str], computations: dict[str, list[Instruction]]) -> Launch:
    inside = computations[match[1]] if (match := re.search(r'calls=%([\w.\-]+)', each.rest)) else []
    reads = _reads(inside) if inside else [_bytes(types[name]) for name in each.operands]
    target = re.search(r'custom_call_target="([^"]*)"', each.rest)
    source = re.search(r'op_name="([^"]*)"', each.rest)
    cost = re.search(r'"exec_time_us":([\d.e+-]+)', each.rest)
    return Launch(
        kind=target[1] if target else re.sub(r'[._\d]*$', '', each.name) if inside else each.operation,
        source=source[1] if source else '',
        bytes=sum(reads) + _bytes(each.type),
        operations=_operations(each, types) + sum(_products(inside)),
        estimate=float(cost[1]) / 1e6 if cost else None,
    )


def _reads(inside: list[Instruction]) -> list[int]:
    """Bytes that a fusion reads of each of its parameters."""

    def read(name: str, whole: int) -> int:
        total = 0
        for user in (each for each in inside if name in each.operands):
            if user.operation in ('slice', 'dynamic-slice', 'gather'):
                total += _bytes(user.type)
            elif user.operation == 'bitcast':
                total += read(user.name, whole)
            elif not (user.operation == 'dynamic-update-slice' and user.operands[0] == name):
                return whole
        return min(total, whole)

    return [read(each.name, _bytes(each.type)) for each in inside if each.operation == 'parameter']


def _operations(each: Instruction, types: dict[str, str]) -> float:
    """Twice the multiply-adds of a library's convolution or product: of all arrays that take part, the three that do.

    A product's multiply-adds are the root of its three sizes' product. A convolution's are the output's pixels and
    channels times one output channel's kernel, whichever of the three arrays, input, kernel, output, is the result.
    """
    if each.operation != 'custom-call' or not re.search(r'cudnn|cublas', each.rest):
        return 0.0
    shapes = [shape for kind in (*(types[name] for name in each.operands[:2]), each.type) for _, shape in _arrays(kind)]
    if 'cublas' in each.rest:
        return 2 * math.sqrt(math.prod(math.prod(shape) for shape in shapes[:3]))
    labels = re.search(r'dim_labels=(\w+)_(\w+)->(\w+)', each.rest)
    target = re.search(r'custom_call_target="([^"]*)"', each.rest)
    if not labels or not target:
        return 0.0
    if 'BackwardFilter' in target[1]:
        output, kernel = shapes[1], shapes[2]
    elif 'BackwardInput' in target[1]:
        output, kernel = shapes[0], shapes[1]
    else:
        output, kernel = shapes[2], shapes[1]
    return 2 * math.prod(output) * math.prod(kernel) / kernel[labels[2].index('o')]


def _products(inside: list[Instruction]) -> Iterator[float]:
    """Operations of the matrix products in a fusion."""
    types = {each.name: each.type for each in inside}
    for each in inside:
        if each.operation == 'dot':
            shapes = [next(_arrays(kind))[1] for kind in (*(types[name] for name in each.operands), each.type)]
            batch = re.search(r'lhs_batch_dims=\{([\d,]+)\}', each.rest)
            shared = math.prod(shapes[0][int(axis)] for axis in batch[1].split(',')) if batch else 1
            yield 2 * math.sqrt(math.prod(math.prod(shape) for shape in shapes) / shared)
