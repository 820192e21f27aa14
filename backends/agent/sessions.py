"""Interpreters that live on between requests, each spoken to over two pipes of its own.

The interpreter reads code, ended by a NUL byte, from descriptor 3 and answers with its status and its working directory,
each ended by a NUL byte, on descriptor 4. What the code starts inherits neither, and nothing of this passes through
standard output, so code can print whatever it likes. It can still lie about its own status: that is its own business.
"""

from __future__ import annotations

import os
import time

from backends.agent.jobs import Job, Output, open_pipes, read_some
from backends.agent.loop import WRITE, Loop, Refused
from backends.agent.nannies import Command

BASH = r"""
while IFS= read -r -d '' -u 3 natgym_code; do
    eval "$natgym_code" 3<&- 4>&-
    printf '%s\0%s\0' "$?" "$PWD" >&4
done
"""
PYTHON = r"""
def _natgym_serve():
    import ast, os, sys, traceback
    for fd in (3, 4):
        os.set_inheritable(fd, False)
    main = type(sys)("__main__")
    sys.modules["__main__"] = main
    names, received = main.__dict__, b""
    names["__builtins__"] = __builtins__
    sys.path[0:1] = [""]

    def run(code):
        tree = ast.parse(code, "<session>")
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, "<session>", "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), "<session>", "eval"), names)
            if value is not None:
                names["_"] = value
                print(repr(value))

    while True:
        while b"\0" not in received:
            data = os.read(3, 65536)
            if not data:
                return
            received += data
        code, _, received = received.partition(b"\0")
        status = 0
        try:
            run(code.decode("utf-8", "surrogateescape"))
        except SystemExit:
            raise
        except BaseException:
            status = 1
            kind, error, trace = sys.exc_info()
            # our own frames are of no use to whoever wrote the code
            while trace is not None and trace.tb_frame.f_code.co_filename != "<session>":
                trace = trace.tb_next
            traceback.print_exception(kind, error, trace)
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            here = os.getcwd()
        except OSError:
            here = ""
        os.write(4, b"%d\0%s\0" % (status, os.fsencode(here)))


_natgym_serve()
"""
KINDS = {
    "bash": ["bash", "--noprofile", "--norc", "-c", BASH],
    "python": ["python3", "-c", PYTHON],
}
MAX_STATUS_BYTES = 8192
STATUSES = {b"%d" % status: status for status in range(256)}
"""The code can write there what it likes; what is no status counts as 1."""


class Session(Job):
    """One interpreter. `run` is answered when it has said its status, has ended, or was killed at the deadline."""

    def __init__(self, loop: Loop, kind: str, cwd: str) -> None:
        (theirs, self._commands), (self._statuses, status) = open_pipes(2)
        self.cwd = cwd
        try:
            super().__init__(loop, Command(KINDS[kind], cwd, {}), (theirs, status), listens=False)
        except Refused:
            os.close(self._commands)
            os.close(self._statuses)
            raise
        for fd in (self._commands, self._statuses):
            os.set_blocking(fd, False)
        self.request: int | None = None
        self._timed_out = False
        self._told, self._code = b"", memoryview(b"")
        loop.watch(self._statuses, self._on_status)

    def run(self, request: dict, code: bytes) -> None:
        """Hand the code over; the answer follows."""
        if self.request is not None:
            raise Refused("busy", "the session is running; one run at a time")
        self.request, self.started = request["id"], time.monotonic()
        self.deadline = self.started + request["timeout"]
        self._output = Output(self, request["max_output"])
        self._code = memoryview(code + b"\0")
        self._hand_over()

    def on_deadline(self) -> None:
        """The time is up: whatever the code did with the interpreter, it is over."""
        self._timed_out = True
        self.kill()

    def ended(self) -> None:
        """The interpreter is gone."""
        if self.request is not None:
            self._answer(None, ended=True)
        for fd in (self._commands, self._statuses, self.stdout, self.stderr):
            self.close(fd)

    def _hand_over(self) -> None:
        try:
            self._code = self._code[os.write(self._commands, self._code) :]
        except BlockingIOError:
            pass
        except OSError:
            self._code = memoryview(b"")  # it has ended, which its nanny tells
        if self._code:
            self.loop.watch(self._commands, self._hand_over, WRITE)
        else:
            self.loop.unwatch(self._commands)

    def _on_status(self) -> None:
        data = read_some(self._statuses)
        if not data:
            if data is not None:
                self.loop.unwatch(self._statuses)  # the interpreter is ending, or its code closed the pipe
            return
        self._told += data
        if len(self._told) > MAX_STATUS_BYTES:
            self.kill()
        elif self._told.count(b"\0") >= 2 and self.request is not None:
            status, cwd, self._told = self._told.split(b"\0", 2)
            self.cwd = self.loop.setup.outside(cwd.decode("utf-8", "replace")) or self.cwd
            self._answer(STATUSES.get(status, 1), ended=False)

    def _answer(self, code: int | None, *, ended: bool) -> None:
        self._output.drain()
        header, body = self._output.told(self.status if ended else None, timed_out=self._timed_out)
        if not ended:
            for fd in (self.stdout, self.stderr):
                self.loop.unwatch(fd)  # what background processes print from here on waits in the pipe for the next run
            header["exit_code"] = code
        seconds = time.monotonic() - self.started
        request, self.request, self.deadline = self.request, None, None
        assert request is not None  # who calls has looked
        self.loop.reply(request, {**header, "seconds": seconds, "cwd": self.cwd[:4096], "ended": ended}, body)
