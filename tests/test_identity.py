"""A process is known again by what was noted of it, and no other is taken for it."""

import json
import os
import subprocess
import sys

import psutil
from conftest import soon

from flows.machine import identity


def test_this_process_is_known_again_after_json():
    about = identity.this_process("trainyard.")
    assert set(about) == {"trainyard.host", "trainyard.pid", "trainyard.process_started"}
    assert identity.is_alive(json.loads(json.dumps(about)), "trainyard.")
    # As it was noted before: numbers, and no host.
    assert identity.is_alive({"pid": os.getpid(), "process_started": psutil.Process().create_time()})


def test_no_other_is_taken_for_it():
    about = identity.this_process()
    later = about | {"process_started": str(float(about["process_started"]) - 10)}  # its number was given again
    assert not identity.is_alive(later)
    elsewhere = about | {"host": "another machine"}
    assert not identity.is_of_this_machine(elsewhere)
    assert not identity.is_alive(elsewhere)


def test_one_that_has_ended_is_gone_though_nobody_has_asked_for_its_exit_code():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    about = identity.this_process() | {
        "pid": str(child.pid),
        "process_started": str(psutil.Process(child.pid).create_time()),
    }
    assert identity.is_alive(about)
    child.stdin.close()
    assert soon(lambda: psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE)
    assert not identity.is_alive(about)
    child.wait()
    assert not identity.is_alive(about)
