"""What oneDNN keeps of products of many shapes is bounded, in a process of its own: it reads the bound at its first product."""

import subprocess
import sys

import pytest

from tutelage.engine.precision import KERNELS

SCRIPT = """
import os, sys
import torch
import tutelage.engine.precision
if sys.argv[1] == "late":
    os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] = "1024"
for _ in range(2):
    for rows in range(1, 301):
        torch.ones(rows, 64, dtype=torch.bfloat16) @ torch.ones(64, 64, dtype=torch.bfloat16)
"""


def misses(when: str) -> int:
    """How many kernels are made for 300 shapes, each of which comes twice."""
    environment = {"ONEDNN_VERBOSE": "profile_create", "PATH": ""}
    answer = subprocess.run(
        [sys.executable, "-c", SCRIPT, when], env=environment, capture_output=True, text=True, check=True
    )
    return sum("create:cache_miss" in line and "matmul" in line for line in answer.stdout.splitlines())


def test_no_more_kernels_are_kept_than_the_bound() -> None:
    unbounded = misses("late")
    if not unbounded:
        pytest.skip("this machine multiplies bf16 without oneDNN")
    assert KERNELS < 300
    assert unbounded < 400 < misses("first")
