"""A step that cannot be compiled here is taken as it stands, once that is known."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest
import torch
from running import ROOT
from torch import Tensor

from search.training.stepping import GradientStep


class NoCompiler(Exception):
    """What stands for the many errors of compilers."""


def test_a_failing_compiler_is_told_once_and_the_gradients_are_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    weight = torch.nn.Parameter(torch.tensor([2.0]))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    attempts: list[str] = []

    def compiled(loss_of):
        def run(*batch: Tensor):
            attempts.append("compiled")
            raise NoCompiler("no g++ here\nmore")

        return run

    monkeypatch.setattr(torch, "compile", compiled)
    step = GradientStep(lambda x: ((weight * x).sum(), None), optimizer, compile=True)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            loss, _ = step(torch.tensor([3.0]))
            assert loss.item() == 6.0
            assert weight.grad is not None
            assert weight.grad.item() == 3.0
    assert attempts == ["compiled"]
    (record,) = caplog.records
    assert "NoCompiler: no g++ here" in record.getMessage()


def test_a_step_that_is_wrong_itself_fails():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)

    def broken(x: Tensor):
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        GradientStep(broken, optimizer, compile=False)(torch.ones(1))


PROGRAM = """
import torch
from search.training.stepping import GradientStep
weight = torch.nn.Parameter(torch.ones(4))
step = GradientStep(lambda x: ((weight * x).exp().sum(), None), torch.optim.SGD([weight]), True)
loss, _ = step(torch.zeros(4))
print(loss.item(), weight.grad.tolist())
"""


@pytest.mark.slow
def test_without_a_compiler_and_without_a_user_name_training_goes_on(tmp_path):
    environment = {
        "PATH": "/nowhere", "CXX": "/nowhere/g++", "PYTHONPATH": str(ROOT),
        "TMPDIR": str(tmp_path),
    }  # fmt: skip
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, text=True, capture_output=True,
        timeout=200, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "4.0 [0.0, 0.0, 0.0, 0.0]\n"
    assert "cannot be compiled here" in ended.stderr
    assert "Traceback" not in ended.stderr
