"""Names to things: loaded when asked for, an unknown one answered with the known ones."""

import sys
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.errors import MissingRuntime, UnknownName
from core.registry import Registry

THINGS: Registry[type] = Registry("thing", {"ordered": "collections:OrderedDict", "clock": "core.clock:SystemClock"})


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the import path, in which a test writes a module called `plugin`."""
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "plugin.py"
    sys.modules.pop("plugin", None)


def test_a_known_name_is_imported():
    assert THINGS.load("ordered") is OrderedDict


def test_names_are_sorted():
    assert THINGS.names == ("clock", "ordered")


def test_a_dotted_path_is_accepted_in_place_of_a_name(plugin: Path):
    plugin.write_text("class Mine: ...")
    assert THINGS.load("plugin:Mine").__name__ == "Mine"


@pytest.mark.parametrize(
    "name", ["orderd", "nowhere.at_all:Thing", "collections:Ordered", ":x", "collections:", "..:x", "a b:c", ""]
)
def test_an_unknown_name_is_answered_with_the_known_ones(name: str):
    with pytest.raises(UnknownName, match="known: clock, ordered"):
        THINGS.load(name)


def test_the_nearest_name_is_suggested():
    with pytest.raises(UnknownName, match="did you mean 'ordered'"):
        THINGS.load("orderd")


def test_a_package_that_is_not_installed_is_named(plugin: Path):
    plugin.write_text("import plug  # a name that the module's own name starts with")
    with pytest.raises(MissingRuntime, match="needs the package 'plug'"):
        THINGS.load("plugin:Mine")


def test_a_mistake_inside_a_module_is_not_an_unknown_name(plugin: Path):
    plugin.write_text("import sys\nsys.no_such_thing")
    with pytest.raises(AttributeError, match="no_such_thing"):
        THINGS.load("plugin:Mine")


def test_a_registry_can_be_read_without_importing_what_it_lists():
    assert Registry[type]("thing", {"far": "no_such_package.x:Y"}).names == ("far",)
