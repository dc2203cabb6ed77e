"""Weights files: read, check, write; the trained ones that come with the package lie here."""
