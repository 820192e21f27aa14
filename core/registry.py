"""Names to things, loaded when they are asked for.

A table maps a short name to `module:attribute`, so that a registry can be read without importing what it lists.
A dotted path of another package is accepted in place of a name.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Generic, TypeVar

from core.errors import MissingRuntime, UnknownName

T = TypeVar("T")


class Registry(Generic[T]):
    """Short names of one kind of thing. `PARSERS = Registry[ToolCallParser]("parser", {...})`."""

    def __init__(self, kind: str, table: Mapping[str, str]) -> None:
        self.kind = kind
        self.table = dict(table)

    @property
    def names(self) -> tuple[str, ...]:
        """All short names, sorted."""
        return tuple(sorted(self.table))

    def load(self, name: str) -> T:
        """The thing of that name, imported now.

        Raises UnknownName with the nearest name and all known ones, and MissingRuntime where the module of a
        known name needs a package that is not installed.
        """
        module_name, _, attribute = self.table.get(name, name).partition(":")
        if not attribute or not all(part.isidentifier() for part in module_name.split(".")):
            raise UnknownName(self.kind, name, self.names)
        try:
            module = import_module(module_name)
        except ModuleNotFoundError as error:
            if f"{module_name}.".startswith(f"{error.name}."):
                raise UnknownName(self.kind, name, self.names) from error
            raise MissingRuntime(f"{self.kind} {name!r} needs the package {error.name!r}, which is not installed") from error
        if not hasattr(module, attribute):
            raise UnknownName(self.kind, name, self.names)
        return getattr(module, attribute)
