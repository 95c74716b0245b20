"""A recorded model that fails where and how a file says: broken workers, and policies that break.

It comes as another distribution's kind of model, ``faulty:NAME``. ``FAULTS`` names the file; every
line of it is ``WHERE KIND WORDS``: at ``data``, ``open``, ``read``, ``run`` or ``reference`` the
built-in error of that kind is raised with those words; ``bits`` raises it for 2-bit policies only.
"""

from __future__ import annotations

import os
from pathlib import Path

from fleet import Fleet, recorded_study
from plugins import write_distribution
from running import ROOT

SOURCE = """
import builtins
import os
from pathlib import Path

from search.data.splits import Split
from search.opening import OpenedModel
from search.testing import RecordedDataset, RecordedModel


def fail(where):
    file = Path(os.environ.get("FAULTS", "/nowhere"))
    for line in file.read_text().splitlines() if file.exists() else ():
        at, kind, words = line.split(" ", 2)
        if at == where:
            raise getattr(builtins, kind)(words)


class Model(RecordedModel):
    @property
    def calibration(self):  # asked for by workers when they open a study, not by a launch
        fail("open")
        return self._calibration

    @calibration.setter
    def calibration(self, split):
        self._calibration = split

    def run(self, bits, split):
        fail("run")
        if min(bits.weights) == 2:
            fail("bits")
        return super().run(bits, split)

    def run_full_precision(self, split):
        fail("reference")
        return super().run_full_precision(split)


class Data(RecordedDataset):
    def split(self, name):
        fail("data")
        whole = super().split(name)
        return Split(name, whole.digest, whole.targets, lambda indices: read(whole, indices))


def read(whole, indices):
    fail("read")
    return whole.read(indices)


def open_faulty(name):
    return OpenedModel(Model(name), Data(name))
"""


class FaultyFleet(Fleet):
    """A fleet whose workers can be broken, each by a file of its own or all by one."""

    def __init__(self, folder: Path, address: str, cache: Path) -> None:
        super().__init__(folder, address, cache)
        self.faults = folder / "faults"
        distribution = folder / "faulty"
        distribution.mkdir()
        write_distribution(
            distribution, "faulty", {"faulty_model.py": SOURCE},
            {"exitbits.models": {"faulty": "faulty_model:open_faulty"}},
        )  # fmt: skip
        self._path = os.pathsep.join([str(ROOT), str(distribution)])

    def environment(self) -> dict[str, str]:
        """With the distribution, and the file of faults as it is named now."""
        return {**super().environment(), "PYTHONPATH": self._path, "FAULTS": str(self.faults)}

    def break_at(self, *lines: str) -> None:
        """Fail as these lines say from now on; as none says, no more."""
        self.faults.write_text("\n".join(lines))

    def study(self, name: str, trials: int, bits: str = "[4, 8]") -> Path:
        """Write a study of a model that can fail."""
        path = self.folder / f"{name}.toml"
        text = recorded_study(name, trials, 0.0).replace("recorded:", "faulty:")
        path.write_text(text.replace("bits = [4, 8]", f"bits = {bits}"))
        return path

    def submit(self, name: str, trials: int, bits: str = "[4, 8]") -> None:
        """Submit such a study."""
        path = self.study(name, trials, bits)
        self.run("submit", path.name, "--cache", str(self.cache))
