"""The error that this package raises."""


class Error(Exception):
    """Something is wrong with the script, its state, or the call of `vadpipe`. The message says what to do."""
