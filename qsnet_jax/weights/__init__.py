"""Weights files: read, check, write; the trained ones that come with the package lie here (see WEIGHTS.md).

files        what others import: find, load and save weights, whoever wrote them
torch_files  the same for the state_dicts of PyTorch
checks       whether settings and tensors fit each other
reading      opens a file and says what it holds, within limits
"""
