"""A child process that does not outlive its parent."""

import ctypes
import os
import signal

PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """Have the kernel kill this process when the parent of that id ends; end now where it has ended already.

    Killed, not asked: nobody is left who would wait, and what was accepted is on disk. Sandboxes die with us.
    """
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
