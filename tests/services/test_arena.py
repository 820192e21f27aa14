"""From the file of a run to the backend that it names."""

import pytest

from backends.ssh import SshBackend
from core.errors import ConfigError
from services.arena import make_backend
from services.run_file import RunFile


def test_a_backend_with_settings_reads_the_section_backend():
    backend = make_backend("ssh", RunFile(None, ("backend.host=far", "backend.port=2222")))
    assert isinstance(backend, SshBackend)
    assert (backend.config.host, backend.config.port) == ("far", 2222)


def test_a_wrong_setting_of_a_backend_is_named():
    with pytest.raises(ConfigError, match=r"unknown key 'backend\.hosts'; did you mean 'host'"):
        make_backend("ssh", RunFile(None, ("backend.hosts=far",)))


def test_settings_of_a_backend_that_has_none_are_refused():
    with pytest.raises(ConfigError, match=r"backend\.host: the backend 'local' has no settings"):
        make_backend("local", RunFile(None, ("backend.host=far",)))
