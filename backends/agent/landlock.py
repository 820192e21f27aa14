"""Walls for commands where no namespace can be made for them alone: Landlock for files, TCP and signals, a filter for system
calls, or a user of their own where the agent is root.

Source: the kernel's Documentation/userspace-api/landlock.rst.
"""

from __future__ import annotations

import os
import stat
from _struct import Struct

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
VERSION_FLAG, PATH_BENEATH = 1, 1
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
RULESET, BENEATH, PROGRAM = Struct("=QQQ"), Struct("=Qi"), Struct("@HP")
"""struct landlock_ruleset_attr (files, network, scope), landlock_path_beneath_attr, sock_fprog."""
ALL_RIGHTS = (1 << 16) - 1
READ, OF_A_FILE = 0b1101, 0b1100_0000_0000_0111
"""Execute, read a file, list a directory; and what can be allowed for a file that is no directory."""
TCP_BIND_AND_CONNECT = 0b11
ABSTRACT_SOCKETS_AND_SIGNALS = 0b11
OLDEST_VERSION = 6
"""The first that keeps signals in, without which a command could end any process of its user."""


class Walls:
    """Made once by the agent; every command enters them for good. Raises OSError where the kernel lacks something."""

    def __init__(self, described: dict) -> None:
        import ctypes  # costs milliseconds, which agents behind other walls need not spend

        self._ctypes, self._libc = ctypes, ctypes.CDLL(None, use_errno=True)
        self._user: int | None = described.get("user")
        self._ruleset = self._made_ruleset(described) if "read" in described else None
        self._filters = [self._program(bytes.fromhex(text)) for text in described.get("filters", ())]
        if self._user is not None:
            os.setgroups([])
            # the agent reaches files as that user, with no more rights; it stays root for signals, which only goes one way
            self._libc.setfsgid(self._user)
            self._libc.setfsuid(self._user)

    def _made_ruleset(self, described: dict) -> int:
        version = self._libc.syscall(CREATE_RULESET, None, 0, VERSION_FLAG)
        if version < OLDEST_VERSION:
            raise OSError(f"Landlock version {max(0, version)}, at least {OLDEST_VERSION} is needed")
        rules = RULESET.pack(ALL_RIGHTS, TCP_BIND_AND_CONNECT, ABSTRACT_SOCKETS_AND_SIGNALS)
        ruleset = self._call(CREATE_RULESET, rules, len(rules), 0)
        for path in described["read"]:
            self._allow(ruleset, path, READ)
        for path in described["write"]:
            self._allow(ruleset, path, ALL_RIGHTS)
        return ruleset

    def enter(self) -> None:
        """Put the calling process, and what it starts, behind the walls. Raises OSError."""
        self._prctl(PR_SET_NO_NEW_PRIVS, 1, None)
        if self._user is not None:
            os.setresgid(self._user, self._user, self._user)
            os.setresuid(self._user, self._user, self._user)
        if self._ruleset is not None:
            self._call(RESTRICT_SELF, self._ruleset, 0)
        for _, program in self._filters:
            self._prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program)

    def _allow(self, ruleset: int, path: str, rights: int) -> None:
        try:
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            return  # what is not there needs no rule
        try:
            if not stat.S_ISDIR(os.fstat(place).st_mode):
                rights &= OF_A_FILE
            self._call(ADD_RULE, ruleset, PATH_BENEATH, BENEATH.pack(rights, place), 0)
        finally:
            os.close(place)

    def _program(self, steps: bytes) -> tuple[object, bytes]:
        """A filter as the system call wants it; the first part holds the memory that the second points to."""
        held = self._ctypes.create_string_buffer(steps, len(steps))
        return held, PROGRAM.pack(len(steps) // 8, self._ctypes.addressof(held))

    def _call(self, number: int, *arguments: object) -> int:
        return self._checked(self._libc.syscall(number, *arguments))

    def _prctl(self, option: int, value: int, data: bytes | None) -> None:
        self._checked(self._libc.prctl(option, value, data, 0, 0))

    def _checked(self, found: int) -> int:
        if found < 0:
            number = self._ctypes.get_errno()
            raise OSError(number, f"Landlock or seccomp: {os.strerror(number)}")
        return found
