"""Names to things, loaded when they are asked for.

A table maps a short name to `module:attribute`, so that a registry can be read without importing what it lists.
A dotted path of another package is accepted in place of a name, and so is a name that an installed package declares
as an entry point of the registry's group.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Generic, TypeVar

from core.errors import MissingRuntime, UnknownName

T = TypeVar("T")


class Registry(Generic[T]):
    """Short names of one kind of thing. `PARSERS = Registry[ToolCallParser]("parser", {...})`."""

    def __init__(self, kind: str, table: Mapping[str, str], group: str = "") -> None:
        """`group` names the entry points by which installed packages add names of their own; the table's own win."""
        self.kind = kind
        self.table = dict(table)
        self._group = group

    @property
    def names(self) -> tuple[str, ...]:
        """All short names, sorted."""
        return tuple(sorted(self.table))

    def load(self, name: str) -> T:
        """The thing of that name, imported now.

        Raises UnknownName with the nearest name and all known ones, and MissingRuntime where the module of a
        known name needs a package that is not installed.
        """
        module_name, _, attribute = (self.table.get(name) or self._installed().get(name, name)).partition(":")
        if not attribute or not all(part.isidentifier() for part in module_name.split(".")):
            raise UnknownName(self.kind, name, sorted({*self.names, *self._installed()}))
        try:
            module = import_module(module_name)
        except ModuleNotFoundError as error:
            if f"{module_name}.".startswith(f"{error.name}."):
                raise UnknownName(self.kind, name, self.names) from error
            raise MissingRuntime(f"{self.kind} {name!r} needs the package {error.name!r}, which is not installed") from error
        if not hasattr(module, attribute):
            raise UnknownName(self.kind, name, self.names)
        return getattr(module, attribute)

    def _installed(self) -> dict[str, str]:
        """Names that installed packages add, and where they lead."""
        if not self._group:
            return {}
        from importlib.metadata import entry_points  # reads the disk: only where a name is not in the table

        return {point.name: point.value.replace(" ", "") for point in entry_points(group=self._group)}
