"""QSNet (arXiv 1911.10810): removing rain streaks from one photo, in JAX and Flax."""


class UserError(ValueError):
    """Something the user can mend; its message says what was found, what was expected and what to do.

    `main` prints the message without a traceback and exits with status 1.
    """
