"""What is on the disk before a group is answered for: the calls of the server, as strace sees them."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import pytest

from services.sdk.rollout_client import RolloutClient
from tests.services.rollout_api.harness import ApiProcess, group, run_spec

CALLS = "openat,mkdir,fsync,fdatasync,pwritev,pwritev2,pwrite64,write,writev,sendto,sendmsg"
MEANING = {
    r'mkdir\("[^"]*/new"': "make folder",
    r"fsync\(\d+<[^>]*/above>": "folder on disk",
    r"openat\([^)]*/1\.frames\", [^)]*O_CREAT": "make segment",
    r"fsync\(\d+<[^>]*/q-frames>": "segment on disk",
    r"pwritev2?\(\d+<[^>]*\.frames>": "write frame",
    r"fdatasync\(\d+<[^>]*\.frames>": "frame on disk",
    r"pwrite64\(\d+<[^>]*/q-wal>": "write rows",
    r"fdatasync\(\d+<[^>]*/q-wal>": "rows on disk",
    r'(write|writev|sendto|sendmsg)\(.*"HTTP/1.1 201': "answer",
}


def calls(trace: Path) -> Iterator[str]:
    """Each call when it had ended, also one that calls of other threads came between."""
    begun: dict[str, str] = {}
    for line in trace.read_text(errors="replace").splitlines():
        thread, call = line.split(maxsplit=1)
        if call.endswith("<unfinished ...>"):
            begun[thread] = call
        else:
            yield begun.pop(thread, "") if call.startswith("<... ") else call


def meanings(trace: Path) -> list[str]:
    found = [word for call in calls(trace) for pattern, word in MEANING.items() if re.match(pattern, call)]
    return [word for word, _ in groupby(found)]


async def test_frame_and_row_are_on_the_disk_before_the_answer(tmp_path: Path):
    if not shutil.which("strace") or subprocess.run(["strace", "-qq", "-o", "/dev/null", "true"]).returncode:
        pytest.skip("strace is not installed, or may not trace (Debian, Ubuntu: apt-get install strace)")
    trace, database = tmp_path / "trace", tmp_path / "above" / "new" / "q"
    database.parent.parent.mkdir()
    with ApiProcess(database, within=["strace", "-D", "-f", "-qq", "-yy", "-e", f"trace={CALLS}", "-o", str(trace)]) as api:
        async with RolloutClient(api.url) as client:
            await client.open_run(run_spec())
            for name in ("a", "b"):
                await client.post_group(group(name))
    told = meanings(trace)
    assert told[:2] == ["make folder", "folder on disk"]
    post = ["write frame", "frame on disk", "write rows", "rows on disk", "answer"]
    start = told.index("make segment")
    assert told[start : start + 12] == ["make segment", "segment on disk", *post, *post]
