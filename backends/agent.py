"""The agent inside a sandbox: runs commands and moves files for the host, over one socket.

One file, standard library only, any Python from 3.9: it is handed into sandboxes that hold nothing of natgym.
    python3 -I -S agent.py FD        FD is one end of a stream socketpair; the host holds the other

A frame is two big-endian uint32 (bytes of header, bytes of body), a JSON object, and raw bytes. The host sends
{"id", "op", ...}; every request gets exactly one reply {"id", ...} or {"id", "error", "message"}; nothing is sent
unasked. When the socket closes, the agent kills what it started and ends.

Every command runs under a nanny: a fork of the agent that is a subreaper, so whatever the command leaves behind is
found below one process. When a job ends, its nanny is gone and its leftovers are children of the agent that belong
to no job; these are killed until there are none. As PID 1 of a namespace, the agent cannot be killed from inside.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import selectors
import signal
import socket
import stat
import struct
import sys
import time

HEADER = struct.Struct(">II")
MAX_HEADER = 1 << 20
MAX_BODY = 1 << 28
CHUNK = 1 << 16
STDERR_TAIL = 4096
PURGE_SECONDS = 5.0
MAX_JOBS = 128
MAX_DEPTH = 32
MAX_VISITED = 100_000
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 1, 4, 36

_libc = ctypes.CDLL(None, use_errno=True)


class Refused(Exception):
    """A request that cannot be carried out. `kind` tells the host which error to raise."""

    def __init__(self, kind, message):
        self.kind = kind
        super().__init__(message)


class Settings:
    """What the host's first request said: where, with which environment and limits, and how to kill."""

    def __init__(self, request):
        self.workspace = request["workspace"]
        self.env = request["env"]
        self.limits = request["limits"]
        self.isolated = request["isolated"]

    def inside(self, path):
        """The real path of a path as the host names it; relative ones start in the workspace."""
        path = os.path.normpath(os.path.join("/workspace", path))
        if path == "/workspace" or path.startswith("/workspace/"):
            return self.workspace + path[len("/workspace") :]
        return path


class Capture:
    """The head and the tail of a stream, `limit` bytes together; what lies between is counted and dropped."""

    def __init__(self, limit):
        self.head_limit = limit - limit // 2
        self.tail_limit = limit // 2
        self.head = bytearray()
        self.tail = bytearray()
        self.dropped = False

    def add(self, data):
        room = self.head_limit - len(self.head)
        if room > 0:
            self.head += data[:room]
            data = data[room:]
        self.tail += data
        if len(self.tail) > 2 * self.tail_limit + CHUNK:
            self._trim()

    def bytes(self):
        self._trim()
        return bytes(self.head + self.tail)

    def _trim(self):
        excess = len(self.tail) - self.tail_limit
        if excess > 0:
            del self.tail[:excess]
            self.dropped = True


class Job:
    """A running command: its nanny and the agent's ends of its three pipes."""

    def __init__(self, agent, argv, cwd):
        self.agent = agent
        self.started = time.monotonic()
        self.pid, self.stdin, self.stdout, self.stderr = start_command(argv, agent.settings, cwd)
        self.pidfd = os.pidfd_open(self.pid)
        self.status = None
        self.deadline = None
        self.unsent = b""
        self.unsent_reply = None
        agent.jobs[self.pid] = self
        agent.watch(self.pidfd, self.on_exit)

    def on_exit(self):
        """The command is over, by itself or by a kill: nothing of it survives this."""
        if self.pidfd is None:
            return
        self.agent.unwatch(self.pidfd)
        os.close(self.pidfd)
        self.pidfd = None
        status = self.agent.statuses.pop(self.pid, None)
        self.status = os.waitpid(self.pid, 0)[1] if status is None else status
        del self.agent.jobs[self.pid]
        self.agent.purge()
        self.ended()

    def kill(self):
        if self.pidfd is not None:
            if self.pid not in self.agent.statuses:
                os.kill(self.pid, signal.SIGKILL)
            self.on_exit()

    def ended(self):
        raise NotImplementedError

    def feed(self, data, reply=None):
        """Write to standard input as the pipe takes it, then answer `reply`."""
        if self.stdin is None:
            raise Refused("closed", "the program's standard input is closed")
        if self.unsent:
            raise Refused("busy", "an earlier send is not finished")
        self.unsent, self.unsent_reply = memoryview(data), reply
        self.agent.watch(self.stdin, self.on_writable, selectors.EVENT_WRITE)

    def on_writable(self):
        try:
            self.unsent = self.unsent[os.write(self.stdin, self.unsent[:CHUNK]) :]
        except BlockingIOError:
            return
        except OSError:
            self.fed("the program closed its standard input")
            self.close_stdin()
            return
        if not self.unsent:
            self.fed()

    def fed(self, error=None):
        self.agent.unwatch(self.stdin)
        self.unsent = b""
        reply, self.unsent_reply = self.unsent_reply, None
        if reply is None:
            self.close_stdin()
        elif error is None:
            self.agent.reply(reply, {})
        else:
            self.agent.refuse(reply, "closed", error)

    def close_stdin(self):
        self.stdin = self.close(self.stdin)

    def close(self, fd):
        if fd is not None:
            self.agent.unwatch(fd)
            os.close(fd)


class ExecJob(Job):
    """One command run to its end; its output is kept up to a cap."""

    def __init__(self, agent, request, stdin):
        super().__init__(agent, request["argv"], request["cwd"])
        self.request = request["id"]
        self.deadline = self.started + request["timeout"]
        self.timed_out = False
        self.captures = {self.stdout: Capture(request["max_output"]), self.stderr: Capture(request["max_output"])}
        for fd in self.captures:
            agent.watch(fd, lambda fd=fd: self.on_output(fd))
        if stdin:
            self.feed(stdin)
        else:
            self.close_stdin()

    def on_output(self, fd):
        """Take what is there. True while there may be more."""
        data = read_some(fd)
        if data:
            self.captures[fd].add(data)
            return True
        if data == b"":
            self.agent.unwatch(fd)
        return False

    def on_deadline(self):
        self.timed_out = True
        self.kill()

    def ended(self):
        self.close_stdin()
        for fd in self.captures:
            # a writer outside of the job may hold the pipe open, so this stops at what is there now
            while self.on_output(fd):
                pass
            self.close(fd)
        stdout, stderr = (capture.bytes() for capture in self.captures.values())
        header = {
            "exit_code": None if self.timed_out or os.WIFSIGNALED(self.status) else os.WEXITSTATUS(self.status),
            "timed_out": self.timed_out,
            "truncated": any(capture.dropped for capture in self.captures.values()),
            "seconds": time.monotonic() - self.started,
            "stdout_bytes": len(stdout),
        }
        self.agent.reply(self.request, header, stdout + stderr)


class SpawnJob(Job):
    """A long-lived program. Its standard output is read only when the host asks, so the pipe holds it back."""

    def __init__(self, agent, request):
        super().__init__(agent, request["argv"], request["cwd"])
        self.id = request["id"]
        self.waiting = None
        self.errors = Capture(0)
        self.errors.tail_limit = STDERR_TAIL
        agent.programs[self.id] = self
        agent.watch(self.stderr, self.on_errors)

    def on_errors(self):
        data = read_some(self.stderr)
        if data:
            self.errors.add(data)
            return True
        if data == b"":
            self.agent.unwatch(self.stderr)
        return False

    def receive(self, request):
        if self.waiting is not None:
            raise Refused("busy", "an earlier receive is not finished")
        self.waiting = request
        if self.status is None:
            self.agent.watch(self.stdout, self.on_output)
        else:
            self.on_output()

    def on_output(self):
        data = read_some(self.stdout)
        if data is None and self.status is None:
            return
        self.agent.unwatch(self.stdout)
        request, self.waiting = self.waiting, None
        if not data:
            self.drain_errors()
        # after the program's end, no data means that it is over, whoever else holds the pipe
        self.agent.reply(request, {"stderr": self.tail()}, data or b"")

    def drain_errors(self):
        while self.on_errors():
            pass

    def tail(self):
        return self.errors.bytes().decode("utf-8", "replace")

    def ended(self):
        if self.unsent:
            self.fed("the program has ended")
        self.close_stdin()
        self.drain_errors()
        if self.waiting is not None:
            self.on_output()

    def dispose(self):
        """Kill it and forget it; returns the end of its standard error."""
        self.kill()
        del self.agent.programs[self.id]
        self.close(self.stdout)
        self.close(self.stderr)
        return self.tail()


class Agent:
    """Reads requests, runs the jobs' pipes and deadlines, writes replies. One thread, never blocked by a command."""

    def __init__(self, connection):
        self.connection = connection
        self.selector = selectors.DefaultSelector()
        self.received = bytearray()
        self.settings = None
        self.jobs = {}
        self.statuses = {}
        self.programs = {}
        self.operations = {
            "exec": self.op_exec,
            "cancel": self.op_cancel,
            "spawn": self.op_spawn,
            "send": self.op_send,
            "receive": self.op_receive,
            "kill": self.op_kill,
            "read": self.op_read,
            "write": self.op_write,
            "files": self.op_files,
            "ping": self.op_ping,
        }

    def run(self):
        self.watch(self.connection.fileno(), self.on_request)
        while True:
            for key, _ in self.selector.select(self.seconds_to_deadline()):
                # an earlier callback of this round may have closed it
                if self.selector.get_map().get(key.fd) is key:
                    key.data()
            now = time.monotonic()
            for job in list(self.jobs.values()):
                if job.deadline is not None and job.deadline <= now and job.pidfd is not None:
                    job.on_deadline()

    def seconds_to_deadline(self):
        deadlines = [job.deadline for job in self.jobs.values() if job.deadline is not None]
        return max(0.0, min(deadlines) - time.monotonic()) if deadlines else None

    def watch(self, fd, callback, events=selectors.EVENT_READ):
        if fd in self.selector.get_map():
            self.selector.modify(fd, events, callback)
        else:
            self.selector.register(fd, events, callback)

    def unwatch(self, fd):
        if fd in self.selector.get_map():
            self.selector.unregister(fd)

    def on_request(self):
        try:
            data = self.connection.recv(1 << 18, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        if not data:
            self.end()
        self.received += data
        while True:
            frame = take_frame(self.received)
            if frame is None:
                return
            self.answer(*frame)

    def answer(self, request, body):
        try:
            if self.settings is None:
                self.settings = Settings(request)
                self.reply(request["id"], {"pid": os.getpid()})
            else:
                self.operations[request["op"]](request, body)
        except Refused as refusal:
            self.refuse(request["id"], refusal.kind, str(refusal))
        except OSError as error:
            self.refuse(request["id"], "path", error.strerror or str(error))

    def reply(self, request, header, body=b""):
        text = json.dumps({"id": request, **header}).encode()
        self.connection.sendall(HEADER.pack(len(text), len(body)) + text + body)

    def refuse(self, request, kind, message):
        self.reply(request, {"error": kind, "message": message[:2000]})

    def end(self):
        """The host is gone or has let go: take everything along."""
        for job in list(self.jobs.values()):
            job.deadline = None
            os.kill(job.pid, signal.SIGKILL)
        self.jobs.clear()
        self.purge()
        os._exit(0)

    def purge(self):
        """Kill and reap whatever belongs to no job. Ends the agent, and so the sandbox, if something will not die."""
        deadline = time.monotonic() + PURGE_SECONDS
        while self.reap_strays():
            if self.settings.isolated and (not self.jobs or time.monotonic() > deadline - PURGE_SECONDS / 2):
                # one system call that no fork can slip through; against a bomb it is worth the other jobs
                kill(-1)
            else:
                for pid in strays(os.getpid(), set(self.jobs)):
                    kill(pid)
            if time.monotonic() > deadline:
                os._exit(3)
            time.sleep(0.0002)

    def reap_strays(self):
        """Collect ended children; True while there are children that belong to no job."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                break
            if pid in self.jobs:
                self.statuses[pid] = status
        if not self.jobs:
            return True
        return bool(strays(os.getpid(), set(self.jobs)))

    def op_exec(self, request, body):
        self.refuse_crowd()
        ExecJob(self, request, bytes(body))

    def op_cancel(self, request, body):
        for job in list(self.jobs.values()):
            if isinstance(job, ExecJob) and job.request == request["target"]:
                job.kill()
        self.reply(request["id"], {})

    def op_spawn(self, request, body):
        self.refuse_crowd()
        SpawnJob(self, request)
        self.reply(request["id"], {})

    def op_send(self, request, body):
        self.program(request).feed(bytes(body), request["id"])

    def op_receive(self, request, body):
        self.program(request).receive(request["id"])

    def op_kill(self, request, body):
        program = self.programs.get(request["program"])
        self.reply(request["id"], {"stderr": program.dispose() if program else ""})

    def op_read(self, request, body):
        self.reply(request["id"], {}, read_file(self.settings, request["path"], request["max_bytes"]))

    def op_write(self, request, body):
        write_file(self.settings, request["path"], body)
        self.reply(request["id"], {})

    def op_files(self, request, body):
        paths = "\0".join(list_files(self.settings.workspace, request["max_files"]))
        self.reply(request["id"], {}, paths.encode())

    def op_ping(self, request, body):
        self.reply(request["id"], {})

    def program(self, request):
        if request["program"] not in self.programs:
            raise Refused("closed", "no such program")
        return self.programs[request["program"]]

    def refuse_crowd(self):
        if len(self.jobs) + len(self.programs) >= MAX_JOBS:
            raise Refused("busy", "too many commands at once")


def take_frame(received):
    """The first whole frame of the buffer, removed from it, or None. A host that breaks the framing ends the agent."""
    if len(received) < HEADER.size:
        return None
    header_bytes, body_bytes = HEADER.unpack_from(received)
    if header_bytes > MAX_HEADER or body_bytes > MAX_BODY:
        os._exit(4)
    body_start = HEADER.size + header_bytes
    end = body_start + body_bytes
    if len(received) < end:
        return None
    header = json.loads(bytes(received[HEADER.size : body_start]))
    body = bytes(received[body_start:end])
    del received[:end]
    return header, body


def start_command(argv, settings, cwd):
    """Fork a nanny that runs the command. Returns its pid and our ends of standard input, output and error."""
    stdin, stdin_ours = os.pipe()
    stdout_ours, stdout = os.pipe()
    stderr_ours, stderr = os.pipe()
    theirs, ours = (stdin, stdout, stderr), (stdin_ours, stdout_ours, stderr_ours)
    try:
        pid = os.fork()
    except OSError as error:
        for fd in theirs + ours:
            os.close(fd)
        raise Refused("start", "cannot start a process: " + str(error.strerror)) from error
    if pid == 0:
        nanny(argv, settings, cwd, theirs)
    for fd in theirs:
        os.close(fd)
    for fd in ours:
        os.set_blocking(fd, False)
    return (pid,) + ours


def nanny(argv, settings, cwd, streams):
    """Run the command as a child, adopt and reap its orphans, end as it ended. Does not return."""
    try:
        _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        command = os.fork()
        if command == 0:
            run_command(argv, settings, cwd, streams)
        os.closerange(0, 1 << 16)
        while True:
            pid, status = os.waitpid(-1, 0)
            if pid == command:
                break
        if os.WIFSIGNALED(status):
            os.kill(os.getpid(), signal.SIGKILL)
        os._exit(os.WEXITSTATUS(status))
    finally:
        os._exit(125)


def run_command(argv, settings, cwd, streams):
    """Become the command. Does not return."""
    try:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        os.setsid()
        for target, stream in enumerate(streams):
            os.dup2(stream, target)
        for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        offer_to_oom_killer()
        for name, value in settings.limits.items():
            lower_limit(getattr(resource, name), value)
        os.umask(0o022)
        os.chdir(settings.inside(cwd))
        os.execvpe(argv[0], argv, settings.env)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        os.write(2, "cannot run {}: {}\n".format(argv[0], reason).encode("utf-8", "replace"))
        os._exit(126 if isinstance(error, PermissionError) else 127)
    finally:
        os._exit(125)


def offer_to_oom_killer():
    """When memory runs out, commands go before the agent and before anything of the host."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
    except OSError:
        pass  # only a preference


def lower_limit(number, value):
    hard = resource.getrlimit(number)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(number, (value, value))


def kill(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # gone already, or a setuid program that only the end of the sandbox can kill


def strays(root, nannies):
    """Descendants of `root` that are not below one of `nannies`, from one look at /proc."""
    children = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            parent = parent_of(name)
            if parent is not None:
                children.setdefault(parent, []).append(int(name))
    found, queue = [], [pid for pid in children.get(root, ()) if pid not in nannies]
    while queue:
        pid = queue.pop()
        found.append(pid)
        queue += children.get(pid, ())
    return found


def parent_of(name):
    try:
        with open("/proc/" + name + "/stat", "rb") as file:
            text = file.read()
    except OSError:
        return None
    # the name in parentheses may hold anything, so count from its end
    return int(text[text.rindex(b")") + 2 :].split()[1])


def read_some(fd):
    """Up to 64 KiB: b"" at the end of the stream, None when nothing is there now."""
    try:
        return os.read(fd, CHUNK)
    except BlockingIOError:
        return None
    except OSError:
        return b""


def open_directory(parts, root, make):
    """A descriptor of a directory, reached without following a single link."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    current = os.open(root, flags)
    for part in parts:
        try:
            if make:
                try:
                    os.mkdir(part, 0o755, dir_fd=current)
                except FileExistsError:
                    pass
            following = os.open(part, flags, dir_fd=current)
        finally:
            os.close(current)
        current = following
    return current


def open_parent(settings, path, make):
    """(descriptor of the parent directory, last name) of a path. Raises Refused where a link or `..` is in it."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not parts or ".." in parts or "\0" in path:
        raise Refused("path", "not a path inside the sandbox")
    root = settings.workspace
    if path.startswith("/"):
        if parts[0] == "workspace":
            parts = parts[1:]
        elif settings.isolated:
            root = "/"
        else:
            raise Refused("path", "this backend reaches /workspace only")
    if not parts:
        raise Refused("path", "is a directory")
    try:
        return open_directory(parts[:-1], root, make), parts[-1]
    except OSError as error:
        raise Refused("path", explain(error)) from error


def explain(error):
    if error.errno == errno.ELOOP:
        return "is a symbolic link"
    return error.strerror or str(error)


def read_file(settings, path, max_bytes):
    directory, name = open_parent(settings, path, make=False)
    try:
        # non-blocking, or opening a FIFO would wait for a writer
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except OSError as error:
        raise Refused("path", explain(error)) from error
    finally:
        os.close(directory)
    with os.fdopen(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise Refused("path", "is not a regular file")
        if status.st_size > max_bytes:
            raise Refused("path", "holds {} bytes, more than {}".format(status.st_size, max_bytes))
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise Refused("path", "holds more than {} bytes".format(max_bytes))
    return data


def write_file(settings, path, data):
    """Write beside the target and rename over it, so that a reader sees the old file or the new one, whole."""
    directory, name = open_parent(settings, path, make=True)
    temporary = ".natgym-{}".format(os.urandom(8).hex())
    try:
        if name_is_directory(name, directory):
            raise Refused("path", "is a directory")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with os.fdopen(os.open(temporary, flags, 0o644, dir_fd=directory), "wb") as file:
                file.write(data)
            os.replace(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
        except OSError as error:
            try:
                os.unlink(temporary, dir_fd=directory)
            except OSError:
                pass
            raise Refused("path", explain(error)) from error
    finally:
        os.close(directory)


def name_is_directory(name, directory):
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)
    except OSError:
        return False


def list_files(workspace, max_files):
    """Relative paths of regular files, at most `max_files`, in order; links and names that are no UTF-8 are left out."""
    found, visited, queue = [], 0, [""]
    while queue and len(found) < max_files:
        relative = queue.pop()
        entries = entries_of(workspace, relative)
        visited += len(entries)
        if visited > MAX_VISITED:
            break
        prefix = relative + "/" if relative else ""
        found += [prefix + name for name, mode in entries if stat.S_ISREG(mode)]
        if prefix.count("/") < MAX_DEPTH:
            queue += [prefix + name for name, mode in reversed(entries) if stat.S_ISDIR(mode)]
    return sorted(found)[:max_files]


def entries_of(workspace, relative):
    """(name, mode) of a directory's files and directories, sorted."""
    try:
        directory = open_directory([part for part in relative.split("/") if part], workspace, make=False)
    except OSError:
        return []  # removed or replaced since it was listed
    entries = []
    try:
        for name in sorted(os.listdir(directory)):
            try:
                name.encode()
                entries.append((name, os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode))
            except (OSError, UnicodeEncodeError):
                continue
    finally:
        os.close(directory)
    return entries


def main():
    fd = int(sys.argv[1])
    # whatever the launcher left open (bind sources, say) must not reach a command
    os.closerange(3, fd)
    os.closerange(fd + 1, 1 << 16)
    os.set_inheritable(fd, False)
    # nobody of the same user may read our memory, take our descriptors or speak on our socket
    if _libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0 or _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        os._exit(5)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Agent(socket.socket(fileno=fd)).run()


if __name__ == "__main__":
    main()
