"""What an environment is made with, out of files and variables."""

from pydantic import SecretStr

from core.settings import Settings
from environments.gsm8k import Gsm8k
from environments.reverse_text import ReverseText
from services.arena import make_environment
from services.run_file import RunFile


def test_the_key_of_the_web_search_reaches_an_environment_that_may_search():
    environment = make_environment("gsm8k", RunFile(), Settings(exa_api_key=SecretStr("k-1")))
    assert isinstance(environment, Gsm8k)
    key = environment._config.tools.web.exa_api_key
    assert key
    assert key.get_secret_value() == "k-1"
    assert environment._config.tools.use is None


def test_an_environment_without_tools_of_that_kind_is_made_without_it():
    assert isinstance(make_environment("reverse_text", RunFile(), Settings(exa_api_key=SecretStr("k-1"))), ReverseText)
