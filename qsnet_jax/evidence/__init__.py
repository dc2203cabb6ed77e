"""From scores to verdicts.

evaluate: scores of restored images; score: of folders that any program wrote. statistics: their intervals. rows:
results, checked by shapes. obstacles, verdicts, claims: what they allow to say of the paper. sparsity: Sec. 3.1.
figures: the paper's, drawn by figure_items of subjects, restored by methods. report: all of it to read; tables, parts,
curves, pictures, forest and scatter are what it is made of, page renders it. styles tells curves apart, plates has what
all pictures share.
"""
