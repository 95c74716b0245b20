"""Whose fault a failure is: the policy's, or the worker's and its study's inputs."""

from __future__ import annotations

import sys

from search.errors import BadInput, ExitbitsError
from search.measuring import Measurer
from search.policy import QUANTIZED_BITS

# Errors that no policy brings about: a file, the disk, memory, a library that is missing.
_NEVER_THE_POLICY = (BadInput, OSError, MemoryError, ImportError)
MAX_WORDS = 300


def fault_of_worker(measurer: Measurer, error: Exception) -> Exception | None:
    """Why a policy is not to blame for ``error``; None where it is.

    Args:
        measurer: which raised it when it measured the policy.
        error: what was raised.
    """
    if isinstance(error, _NEVER_THE_POLICY) or _of_accelerator(error):
        return error
    return fault_of_model(measurer)


def fault_of_model(measurer: Measurer) -> Exception | None:
    """What goes wrong whatever the policy, or None.

    The model is asked for what it can always answer: a batch in full precision, and one at the
    most bits everywhere.
    """
    space, widest = measurer.space, max(QUANTIZED_BITS)
    bits = space.bits([widest] * len(space.weight_groups), [widest] * len(space.activation_groups))
    try:
        measurer.evaluator.check_sane(bits)
    except Exception as error:
        return error
    return None


def in_words(error: Exception) -> str:
    """An error in one line: as it stands where it was written for people, else with its kind."""
    words = " ".join(str(error).split("\n\n")[0].split())
    if not isinstance(error, ExitbitsError):
        words = f"{type(error).__name__}: {words}" if words else type(error).__name__
    return words if len(words) <= MAX_WORDS else f"{words[: MAX_WORDS - 1]}…"


def _of_accelerator(error: Exception) -> bool:
    """Whether torch, if it is loaded at all, calls it an error of the device."""
    torch = sys.modules.get("torch")
    if torch is None:
        return False
    kinds = (torch.AcceleratorError, torch.OutOfMemoryError)
    return isinstance(error, kinds)
