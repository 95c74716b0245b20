"""What exitbits raises when it cannot go on.

Every message is one line that names the value, what is allowed, and what to do. The command
prints it as it stands, with its details below, and ends with ``exit_code``; no stack trace reaches
a person for bad input.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

MOST_DETAILS = 20


class ExitbitsError(Exception):
    """Something failed that the person at the command can act on (exit code 1).

    Args:
        message: one line.
        details: every single one of what the message sums up.
    """

    exit_code = 1

    def __init__(self, message: str, details: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.details = tuple(details)

    def lines(self) -> Iterator[str]:
        """What the command prints: the message, and the first of many details with their count."""
        yield str(self)
        yield from (f"  {detail}" for detail in self.details[:MOST_DETAILS])
        if len(self.details) > MOST_DETAILS:
            yield f"  and {len(self.details) - MOST_DETAILS} more"


class BadInput(ExitbitsError):
    """A value, file or option that cannot be used as given (exit code 2)."""

    exit_code = 2


class NoPolicyFound(ExitbitsError):
    """No policy satisfies the request (exit code 3)."""

    exit_code = 3


def unknown_choice(what: str, value: object, choices: Iterable[str]) -> BadInput:
    """Build the error for a name that is not in a registry.

    Args:
        what: the noun, for example ``"sampler"``.
        value: what was given.
        choices: the names that exist.
    """
    listed = ", ".join(sorted(choices))
    return BadInput(f"unknown {what} {value!r}: choose one of {listed}")


def check_range(what: str, value: Any, low: float, high: float, *, whole: bool = False) -> None:
    """Raise ``BadInput`` unless ``value`` is a number from ``low`` to ``high``.

    Args:
        what: the noun.
        value: what was given; NaN is in no range.
        low, high: both allowed.
        whole: whether it must be an integer.
    """
    if (whole and not isinstance(value, int)) or not low <= value <= high:
        kind = "a whole number from " if whole else ""
        raise BadInput(f"{what} = {value!r}: give {kind}{low} to {high}")
