"""The numbers that a script logs."""

from typing import Any

from ._errors import Error

# Names of the log that have a meaning of their own.
LOG_NAMES = ("epoch", "step", "saved")


def to_log(name: str, value: Any) -> float:
    """A number that the script logs by a name of its own."""
    if name in LOG_NAMES:
        raise Error(f"`{name}` has a meaning of its own in the log; choose another name")
    return number(name, value)


def number(name: str, value: Any) -> float:
    """A number to log: also a tensor or an array with one element."""
    if hasattr(value, "item") and callable(value.item):
        try:
            value = value.item()
        except (ValueError, RuntimeError) as error:
            raise Error(f"`{name}` has several elements; log their mean or each by its own name") from error
    if isinstance(value, (bool, int, float)):
        return float(value) if not isinstance(value, int) else int(value)
    raise Error(f"`{name}` is a {type(value).__name__}; only numbers can be logged")
