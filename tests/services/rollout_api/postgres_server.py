"""A PostgreSQL server of one's own, on a Unix socket in a temporary folder."""

import os
import pwd
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Self

import pytest

ANYBODY = "nobody"  # PostgreSQL does not run as root


def program(name: str) -> str:
    """Where that program of PostgreSQL is; skips the test where it is not installed."""
    found = shutil.which(name) or next((str(path) for path in sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))), None)
    if found is None:
        pytest.skip(f"PostgreSQL is not installed: no {name} (Debian, Ubuntu: apt-get install postgresql)")
    return found


class PostgresProcess:
    """`with PostgresProcess() as server:` runs it; `server.new_database()` is the address of an empty database."""

    def __enter__(self) -> Self:
        self._postgres, initdb = program("postgres"), program("initdb")
        self._user = ANYBODY if os.geteuid() == 0 else None
        self._folder = Path(tempfile.mkdtemp(prefix="natgym-pg-", dir="/tmp"))  # a socket's path must be short
        if self._user:
            os.chown(self._folder, pwd.getpwnam(self._user).pw_uid, -1)
        options = ["--username=natgym", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
        self._run([initdb, "-D", str(self._folder / "data"), *options])
        self._databases = 0
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self) -> None:
        """Start it, and return when it takes connections."""
        settings = [f"unix_socket_directories={self._folder}", "listen_addresses=", "shared_buffers=16MB", "max_connections=40"]
        options = [part for setting in settings for part in ("-c", setting)]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._postgres, "-D", str(self._folder / "data"), *options],
                stdout=log, stderr=log, user=self._user, cwd=self._folder,
            )  # fmt: skip
        self._wait()

    def stop(self) -> None:
        """End it as a crash would: connections are cut, nothing is written that was not committed."""
        self._process.send_signal(3)  # SIGQUIT: immediate shutdown
        self._process.wait()

    def new_database(self) -> str:
        """The address of a database that holds nothing yet."""
        import psycopg

        self._databases += 1
        name = f"queue{self._databases}"
        with psycopg.connect(self._address("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self._address(name)

    def _address(self, name: str) -> str:
        return f"postgresql://natgym@/{name}?host={self._folder}"

    def _wait(self) -> None:
        import psycopg

        for _ in range(1800):
            assert self._process.poll() is None, (self._folder / "log").read_text()
            with suppress(psycopg.OperationalError):
                psycopg.connect(self._address("postgres"), connect_timeout=10).close()
                return
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(0.1)
        raise AssertionError(f"PostgreSQL did not start: {(self._folder / 'log').read_text()}")

    def _run(self, command: list[str]) -> None:
        done = subprocess.run(command, capture_output=True, text=True, user=self._user, cwd=self._folder)
        assert done.returncode == 0, done.stderr
