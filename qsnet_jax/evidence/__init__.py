"""From scores to verdicts.

evaluate: scores of restored images. statistics: their intervals. rows: results, checked. obstacles, verdicts, claims:
what they allow to say of the paper. sparsity: Sec. 3.1. report: all of it to read; tables, parts, curves, pictures,
forest and scatter are what it is made of, styles tells curves apart, page renders it.
"""
