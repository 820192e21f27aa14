"""What the fork server knows of its children's use of the machine."""

import os
import subprocess
from pathlib import Path

from environments.nat_agent.runtime.accounts import usage_of, waited_seconds


def test_waiting_is_read_from_the_thread_that_waited_longest():
    before = int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9
    assert waited_seconds([os.getpid(), 1 << 30]) >= before


def test_nobody_waits_who_is_not_there():
    assert waited_seconds([1 << 30]) == 0
    assert waited_seconds([]) == 0


def test_usage_counts_what_descends_from_a_process():
    with subprocess.Popen(["/bin/sh", "-c", "sleep 60 & echo $!; wait"], stdout=subprocess.PIPE, text=True) as shell:
        try:
            assert shell.stdout is not None
            sleeper = int(shell.stdout.readline())
            usage = usage_of([shell.pid, os.getpid()])
            assert sleeper in usage[shell.pid].pids
            assert sleeper not in usage[os.getpid()].pids
        finally:
            os.kill(sleeper, 9)
            shell.kill()
