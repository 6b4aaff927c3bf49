"""What the processes of a run do with the memory they free."""

import subprocess
import sys

import pytest

LOOP = """
import resource
import torch
from asgd.engines import processes

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        for size in (1_000_000, 10_000_000, 20_000_000):  # numbers of 4 bytes
            torch.zeros(size)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
given_back = faults()
processes.keep_memory()
faults()
print(given_back, faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_what_a_step_frees_the_next_one_has_without_new_pages():
    output = subprocess.run([sys.executable, "-c", LOOP], capture_output=True, text=True, check=True).stdout
    given_back, kept = map(int, output.split())
    assert given_back > 10_000 and kept < given_back / 10
