"""What needs another framework beside JAX, or another compiler.

torch_twin: the network in PyTorch; compare trains both. export: files for others; runtimes runs them. bench: timings of
contenders on this machine, with choices among what is shipped and bench_page to read; compiled: counts for the
cards that are not here, by what hlo reads. machine: what both need to know of a processor.
"""
