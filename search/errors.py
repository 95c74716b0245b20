"""What exitbits raises when it cannot go on.

Every message is one line that names the value, what is allowed, and what to do. The command
prints it as it stands and ends with ``exit_code``; no stack trace reaches a person for bad input.
"""

from __future__ import annotations

from collections.abc import Iterable


class ExitbitsError(Exception):
    """Something failed that the person at the command can act on (exit code 1)."""

    exit_code = 1


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
