"""The files of a model directory in Hugging Face's layout that say how to talk to the model."""

import json
from collections.abc import Mapping
from pathlib import Path

from tokenizers import Tokenizer

from core.errors import ConfigError
from core.types import JsonObject

SPECIAL_TOKEN_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class ModelFiles:
    """tokenizer.json, tokenizer_config.json, chat_template.jinja, generation_config.json and config.json."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._config = self._read("tokenizer_config.json")

    def tokenizer(self) -> Tokenizer:
        """The tokenizer. Raises ConfigError where its file is missing or is none."""
        file = self.path / "tokenizer.json"
        if not file.is_file():
            raise ConfigError(f"{file}: not found; expected a model directory with a tokenizer.json")
        try:
            return Tokenizer.from_file(str(file))
        except Exception as error:  # the tokenizers library raises plain Exception
            raise ConfigError(f"{file}: not a tokenizer: {error}") from error

    def template(self) -> str:
        """The source of the chat template, the one for tools where there are several. Raises ConfigError."""
        file = self.path / "chat_template.jinja"
        if file.is_file():
            return file.read_text(encoding="utf-8")
        template = self._config.get("chat_template")
        if isinstance(template, list):
            named = {str(one["name"]): one["template"] for one in template if isinstance(one, dict)}
            template = named.get("tool_use", named.get("default"))
        if not isinstance(template, str):
            raise ConfigError(f"{file}: not found, and tokenizer_config.json holds no chat_template")
        return template

    def special_tokens(self) -> dict[str, str]:
        """`bos_token` and its like, as text."""
        found = {name: self._config.get(name) for name in SPECIAL_TOKEN_NAMES}
        texts = {name: token.get("content") if isinstance(token, dict) else token for name, token in found.items()}
        return {name: text for name, text in texts.items() if isinstance(text, str)}

    def eos_ids(self, tokenizer: Tokenizer, variables: Mapping[str, str]) -> tuple[int, ...]:
        """Every id that ends a turn: the tokenizer's, the generation config's, the model's."""
        own = tokenizer.token_to_id(variables["eos_token"]) if "eos_token" in variables else None
        named = [own, self._read("generation_config.json").get("eos_token_id"), self._read("config.json").get("eos_token_id")]
        flat = [index for one in named for index in (one if isinstance(one, list) else [one])]
        known = [index for index in flat if isinstance(index, int) and tokenizer.id_to_token(index) is not None]
        return tuple(dict.fromkeys(known))

    def _read(self, name: str) -> JsonObject:
        file = self.path / name
        if not file.is_file():
            return {}
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ConfigError(f"{file}: not JSON: {error}") from error
        if not isinstance(data, dict):
            raise ConfigError(f"{file}: expected an object, found {type(data).__name__}")
        return data
