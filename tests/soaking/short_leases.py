"""The command with leases of so many seconds: ``short_leases.py SECONDS worker ...``.

Nobody needs to set them in use; a soak would spend its time waiting for a minute to pass.
"""

from __future__ import annotations

import sys

from studies.store import schema

if __name__ == "__main__":
    schema.LEASE_S = float(sys.argv[1])  # before anything has read it
    from studies.cli import main

    sys.exit(main(sys.argv[2:]))
