"""From scores to verdicts: evaluation, claims, sparsity, the report."""
