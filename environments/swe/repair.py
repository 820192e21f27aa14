"""What there is to repair, whoever made it: a repository, what is wrong with it, hidden tests, and a repair that is known."""

from pydantic import Field

from core.types import Value


class Repair(Value):
    """One repository to repair. Paths are relative to its root."""

    name: str
    statement: str = ""
    """What the policy is told; no part of the hidden data."""
    files: dict[str, str]
    """The repository as it is given."""
    hidden: dict[str, str] = Field(min_length=1)
    """Tests that the policy never sees."""
    fixed: dict[str, str]
    """Whole files that repair it."""

    @property
    def modules(self) -> tuple[str, ...]:
        """Top-level names that the repository's own code is imported by."""
        tops = {path.partition("/")[0].removesuffix(".py") for path in (*self.files, *self.fixed) if is_source(path)}
        return tuple(sorted(tops))


def is_source(path: str) -> bool:
    """Whether a file is Python of the repository itself and not one of its tests."""
    *folders, name = path.split("/")
    tests = {"tests", "test"} & set(folders) or name.startswith(("test_", "conftest")) or name.endswith("_test.py")
    return name.endswith(".py") and not tests and not any(folder.startswith(".") for folder in folders)
