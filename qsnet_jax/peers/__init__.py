"""What needs another framework beside JAX: the PyTorch twin, comparison, timings."""
