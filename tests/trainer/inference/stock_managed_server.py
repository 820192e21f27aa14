"""Atropos's ManagedServer as its users write it, run by the interpreter that Atropos is installed for.

Arguments: the address, the tokenizer's directory, `vllm` or `sglang`. Prints what it tracked, as JSON.
"""

import asyncio
import json
import sys

from atroposlib.envs.server_handling.managed_server import ManagedServer
from atroposlib.envs.server_handling.server_manager import APIServerConfig
from atroposlib.envs.server_handling.sglang_server import SGLangServer
from atroposlib.envs.server_handling.vllm_server import VLLMServer
from transformers import AutoTokenizer


async def main(url, tokenizer_dir, kind):
    config = APIServerConfig(
        model_name="policy", base_url=f"{url}/v1", api_key="x", health_check=False, tokenizer_name=tokenizer_dir
    )
    server = {"vllm": VLLMServer, "sglang": SGLangServer}[kind](config)
    managed = ManagedServer(server=server, tokenizer=AutoTokenizer.from_pretrained(tokenizer_dir))
    messages = [{"role": "user", "content": "Write a.py"}]
    await managed.chat_completion(messages=messages, n=2, max_tokens=6, temperature=1.0)
    print(json.dumps([node.model_dump() for node in managed.get_state()["nodes"]]))  # noqa: T201 the result


asyncio.run(main(*sys.argv[1:]))
