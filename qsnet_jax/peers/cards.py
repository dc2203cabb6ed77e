"""Graphics cards as XLA's compiler wants them described, so that it compiles for one that is not there.

Facts of the vendor's data sheets and architecture papers. Bandwidth and products are what a card can do at most.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Card:
    """A card. bandwidth: bytes/s. flops: dense tensor-core products per second, twice the multiply-adds, by precision.

    shared: bytes that the threads of one multiprocessor share; block: those that one block may have of them.
    """

    name: str
    capability: tuple[int, int]
    multiprocessors: int
    lanes: int  # of float32 in a multiprocessor
    threads: int  # of a multiprocessor at a time
    bandwidth: float
    memory: int  # bytes
    cache: int  # bytes of L2
    shared: int
    block: int
    clock: float  # GHz
    flops: dict[str, float]


GIB = 2**30
CARDS = {
    'h100': Card(
        *('NVIDIA H100 80GB HBM3', (9, 0), 132, 128, 2048, 3.35e12, 80 * GIB, 50 * 2**20, 228 * 1024, 227 * 1024, 1.98),
        flops={'bfloat16': 989e12, 'tf32': 495e12, 'float32': 67e12},
    ),
    'a100': Card(
        *('NVIDIA A100-SXM4-80GB', (8, 0), 108, 64, 2048, 2.04e12, 80 * GIB, 40 * 2**20, 164 * 1024, 163 * 1024, 1.41),
        flops={'bfloat16': 312e12, 'tf32': 156e12, 'float32': 19.5e12},
    ),
    'rtx4090': Card(
        *(
            'NVIDIA GeForce RTX 4090',
            (8, 9),
            128,
            128,
            1536,
            1.008e12,
            24 * GIB,
            72 * 2**20,
            100 * 1024,
            99 * 1024,
            2.52,
        ),
        flops={'bfloat16': 165e12, 'tf32': 82.6e12, 'float32': 82.6e12},
    ),
}
ATTAINED = 0.5  # share of these products that convolutions are assumed to reach


def target(card: Card) -> str:
    """The description, in the text format of XLA's GpuTargetConfigProto."""
    major, minor = card.capability
    feature = 'ACCELERATED_FEATURES' if major == 9 else 'NONE'
    facts = {
        'threads_per_block_limit': 1024,
        'threads_per_warp': 32,
        'shared_memory_per_block': 48 * 1024,
        'shared_memory_per_core': card.shared,
        'shared_memory_per_block_optin': card.block,
        'threads_per_core_limit': card.threads,
        'core_count': card.multiprocessors,
        'fpus_per_core': card.lanes,
        'block_dim_limit_x': 2**31 - 1,
        'block_dim_limit_y': 2**16 - 1,
        'block_dim_limit_z': 2**16 - 1,
        'thread_dim_limit_x': 1024,
        'thread_dim_limit_y': 1024,
        'thread_dim_limit_z': 64,
        'memory_bandwidth': int(card.bandwidth),
        'l2_cache_size': card.cache,
        'clock_rate_ghz': card.clock,
        'device_memory_size': card.memory,
        'registers_per_core_limit': 2**16,
        'registers_per_block_limit': 2**16,
        'device_address_bits': 64,
        'cuda_compute_capability': f'{{ major: {major} minor: {minor} feature_extension: {feature} }}',
        'device_vendor': '"NVIDIA Corporation"',
        'platform_version': f'"Compute Capability {major}.{minor}{"a" if major == 9 else ""}"',
        'name': f'"{card.name}"',
        'driver_version': '"13.0.0"',
        'runtime_version': '"12.9.0"',
        'compile_time_toolkit_version': '"12.9.0"',
        'dnn_version': '"9.10.0"',
    }
    lines = [f'  {name}{"" if str(fact).startswith("{") else ":"} {fact}' for name, fact in facts.items()]
    head = ['platform_name: "CUDA"', 'dnn_version_info { major: 9 minor: 10 patch: 0 }']
    return '\n'.join([*head, f'device_description_str: "{card.name}"', 'gpu_device_info {', *lines, '}'])
