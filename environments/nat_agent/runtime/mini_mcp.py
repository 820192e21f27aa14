"""A small real MCP server on standard streams. Start with the path of a JSON file {"tools": [...], "secret": hex}.

Each tool takes `key: string` and answers what only a holder of the secret can know. The host imports `value_of` from here.
"""

import json
import sys
from _blake2 import blake2b

TOOL_SCHEMA = {"type": "object", "properties": {"key": {"type": "string"}}, "required": ["key"]}


def value_of(secret: str, tool: str, key: str) -> str:
    """What `tool` answers for `key`."""
    return blake2b(f"{tool}/{key}".encode(), key=bytes.fromhex(secret), digest_size=8).hexdigest()


def answer(request: dict, about: dict) -> dict:
    """The result of one request."""
    method, params = request["method"], request.get("params") or {}
    if method == "initialize":
        server = {"name": "natgym", "version": "1"}
        return {"protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}}, "serverInfo": server}
    if method == "tools/list":
        tools = [{"name": name, "description": f"{name} of a key", "inputSchema": TOOL_SCHEMA} for name in about["tools"]]
        return {"tools": tools}
    if method == "tools/call":
        known = params["name"] in about["tools"]
        text = value_of(about["secret"], params["name"], str(params["arguments"].get("key"))) if known else "unknown tool"
        return {"content": [{"type": "text", "text": text}], "isError": not known}
    return {}


def main() -> None:
    about = json.loads(open(sys.argv[1]).read())  # noqa: PTH123, SIM115 - importing pathlib takes longer than the rest
    for line in sys.stdin:
        request = json.loads(line)
        if "id" in request and "method" in request:
            reply = {"jsonrpc": "2.0", "id": request["id"], "result": answer(request, about)}
            sys.stdout.write(json.dumps(reply) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
