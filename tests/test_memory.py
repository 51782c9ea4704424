"""Memory that is kept: what one step has freed, the next one has without asking the system."""

import subprocess
import sys

import pytest
from conftest import environment

# Page faults while 64 MiB are taken, filled and freed twenty times, once the allocator has found their place: an
# aligned block does not fit where the last one was until the free blocks have joined, which takes a few rounds.
PROGRAM = """
import resource, torch
from lightning_modules import memory
if {keep}:
    memory.keep()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def rounds(count):
    before = faults()
    for _ in range(count):
        torch.zeros(2**24).add_(1)
    return faults() - before
rounds(10)
print(rounds(20))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's way")
def test_freed_memory_is_kept():
    def faults(keep: bool) -> int:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM.format(keep=keep)], capture_output=True, text=True, env=environment()
        )
        assert not done.returncode, done.stderr
        return int(done.stdout)

    given, kept = faults(False), faults(True)
    if given < 100:
        pytest.skip("this allocator keeps what is freed by itself")
    assert kept < given / 10
