"""Rows in the form of SWE-bench: a commit of a real repository, an issue, and tests that a right change makes pass.

The rows hold no code: `repositories` is a folder of clones called OWNER__NAME, and what their tests need has to be in
the sandbox. The tests import the code that they test, so they run together with it; docs/environments.md says what that
promises and what not.
"""

import asyncio
import json
import xml.etree.ElementTree as ElementTree
from asyncio.subprocess import PIPE
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated
from uuid import uuid4

from pydantic import BeforeValidator, Field

from backends.base import Backend, SandboxPathError, SandboxSpec
from core.errors import ConfigError, RewardError
from core.types import Value
from environments.episode import lease
from environments.swe.trial import Verdict
from environments.tool_context import ToolContext
from environments.tools.calls import as_call

PACKAGES = "/opt/natgym/packages"
DIFF = "git add -A -N && git diff --binary --no-ext-diff --no-textconv HEAD"
SECONDS = 900.0
GIT_SECONDS = 120.0
MAX_BYTES = 1 << 25
CONFIGS = ("pytest.ini", ".pytest.ini", "pytest.toml", ".pytest.toml", "tox.ini", "setup.cfg", "pyproject.toml")
OURS = (*CONFIGS, "conftest.py", "sitecustomize.py", "usercustomize.py", "*.pth", "*.dist-info/*", "*.egg-info/*")
"""Files that decide how tests are run: a change of them is left out of the copy that is judged."""
RUN = (
    f"import sys; sys.path[:0] = ['/workspace', '/workspace/src', {PACKAGES!r}]; "
    "import pytest; sys.exit(pytest.main(sys.argv[1:]))"
)


def _listed(value: object) -> object:
    """Published files hold lists as JSON text."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError as error:
        raise ValueError(f"expected a list or its JSON text, found {str(value)[:60]!r}") from error


TestId = Annotated[str, Field(pattern=r"^[^:]+\.py(::[^:\[]+)+(\[.*)?$")]
Tests = Annotated[tuple[TestId, ...], BeforeValidator(_listed)]


class BenchRow(Value):
    """The fields that are used; others are left aside."""

    instance_id: str
    repo: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    base_commit: str = Field(pattern="^[0-9a-f]{7,64}$")
    problem_statement: str
    patch: str
    test_patch: str
    FAIL_TO_PASS: Tests = Field(min_length=1)
    PASS_TO_PASS: Tests = ()


class Bench:
    """Clones of repositories, and how the tests of a row are run on them."""

    def __init__(self, backend: Backend, repositories: Path | None, packages: Path | None) -> None:
        self._backend, self._repositories, self._packages = backend, repositories, packages

    def spec(self) -> SandboxSpec:
        """A sandbox with room for a repository and its tests."""
        shown = {str(self._packages.resolve()): PACKAGES} if self._packages else {}
        return SandboxSpec(memory_mib=4096, processes=512, disk_mib=2048, readonly=shown)

    async def prepare(self, row: BenchRow, context: ToolContext) -> None:
        """Lay down the commit of a row, as the one commit of a fresh repository: its future is not in there."""
        await context.write(".natgym.tar", await self._archive(row))
        await _done(context, "tar -xf .natgym.tar && rm .natgym.tar && git init -q . && git add -A -f && "
                    "git -c user.name=natgym -c user.email=natgym@localhost commit -q -m 'As it was found'")  # fmt: skip

    async def verdict(self, row: BenchRow, context: ToolContext) -> Verdict:
        """Run the tests of a row in a fresh copy of its commit with the changes of the policy."""
        # what git says here is the policy's to forge: it is a change of files like any other
        change = await context.bash(DIFF, timeout_seconds=GIT_SECONDS)
        async with lease(self._backend, self.spec()) as sandbox, ToolContext(sandbox) as copy:
            await self.prepare(row, copy)
            await copy.upload({".natgym/change": change.stdout, ".natgym/tests": row.test_patch.encode()})
            left_out = " ".join(f"--exclude='{name}' --exclude='*/{name}'" for name in (*OURS, *_touched(row.test_patch)))
            applied = await copy.bash(f"test ! -s .natgym/change || git apply {left_out} .natgym/change")
            if change.truncated or applied.exit_code != 0:
                return Verdict(0, len(row.FAIL_TO_PASS), "the change is too large or cannot be applied")
            await _done(copy, "git apply .natgym/tests")
            return await self._tested(row, copy)

    def gold(self, row: BenchRow) -> Sequence[str]:
        """The published change."""
        calls = [as_call("write_file", path="/tmp/known.patch", content=row.patch)]  # noqa: S108
        return ("\n".join([*calls, as_call("terminal", command="git apply /tmp/known.patch")]), "The issue is solved.")

    async def _tested(self, row: BenchRow, copy: ToolContext) -> Verdict:
        wanted = (*row.FAIL_TO_PASS, *row.PASS_TO_PASS)
        report = f".natgym/{uuid4().hex}.xml"
        options = ["-q", "-p", "no:cacheprovider", "-o", "junit_family=xunit1", f"--junitxml={report}"]
        command = ["python3", "-I", "-B", "-c", RUN, *options]
        files = list(dict.fromkeys(name.partition("::")[0] for name in wanted))
        done = await copy.run([*command, *files], timeout_seconds=SECONDS)
        if b"No module named 'pytest'" in done.stderr:
            raise RewardError("the sandbox has no pytest: set env.packages to a folder that holds it, or use an image with it")
        try:
            passed = passed_tests(await copy.read(report, max_bytes=MAX_BYTES))
        except (SandboxPathError, ElementTree.ParseError):
            return Verdict(0, len(wanted), "the tests ended without a report")
        return Verdict(sum(as_case(name) in passed for name in wanted), len(wanted))

    async def _archive(self, row: BenchRow) -> bytes:
        """The files of a commit as tar. Raises ConfigError where the clone or the commit is missing."""
        if self._repositories is None:
            raise ConfigError(f"{row.instance_id}: set env.repositories to a folder of clones, such as OWNER__NAME")
        clone = self._repositories / row.repo.replace("/", "__")
        command = ["git", "-C", str(clone), "archive", "--format=tar", row.base_commit]
        process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE)
        async with asyncio.timeout(GIT_SECONDS):
            data, errors = await process.communicate()
        if process.returncode != 0:
            raise ConfigError(f"{clone}: has no commit {row.base_commit}: {errors.decode(errors='replace').strip()[:200]}")
        return data


def passed_tests(report: bytes) -> set[tuple[str, str]]:
    """(class, name) of the tests that passed, from a JUnit report."""
    cases = ElementTree.fromstring(report).iter("testcase")  # noqa: S314 expat refuses entities that grow
    good = [case for case in cases if not {"failure", "error", "skipped"} & {one.tag for one in case}]
    return {(case.get("classname", ""), case.get("name", "")) for case in good}


def as_case(node: str) -> tuple[str, str]:
    """`tests/test_a.py::TestB::test_c[1]` as JUnit writes it: class and name."""
    path, bracket, parameters = node.partition("[")
    file, *classes, name = path.split("::")
    return ".".join([file.removesuffix(".py").replace("/", "."), *classes]), f"{name}{bracket}{parameters}"


def _touched(patch: str) -> list[str]:
    """The files that a patch is about."""
    lines = [line[6:].strip() for line in patch.splitlines() if line.startswith(("--- a/", "+++ b/"))]
    return [line for line in dict.fromkeys(lines) if "'" not in line]


async def _done(context: ToolContext, command: str) -> None:
    done = await context.bash(command, timeout_seconds=GIT_SECONDS)
    if done.exit_code != 0:
        raise RewardError(f"the repository could not be laid down: {done.stderr[-300:].decode(errors='replace').strip()}")
