"""A small real MCP server on standard streams. Start with the path of a JSON file {"package", "tools", "socket"}.

A tool is its name, or an object as `tools/list` gives it. The server knows no answer: it asks at the socket, behind which
the host stands, so there is nothing in here that agent code could read.
"""

import json
import sys
from _socket import AF_UNIX, SOCK_STREAM, socket  # the module `socket` takes longer to import than all the rest

TOOL_SCHEMA = {"type": "object", "properties": {"key": {"type": "string"}}, "required": ["key"]}


def answer(request: dict, about: dict) -> dict:
    """The result of one request."""
    method, params = request["method"], request.get("params") or {}
    if method == "initialize":
        server = {"name": "natgym", "version": "1"}
        return {"protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}}, "serverInfo": server}
    if method == "tools/list":
        return {"tools": [listed(tool) for tool in about["tools"]]}
    if method == "tools/call":
        question = {"package": about["package"], "tool": params["name"], "arguments": params.get("arguments") or {}}
        told = ask(about["socket"], question)
        problem = told.get("error")
        return {"content": [{"type": "text", "text": str(problem or told.get("text"))}], "isError": problem is not None}
    return {}


def listed(tool: str | dict) -> dict:
    """The entry of a tool in `tools/list`."""
    return tool if isinstance(tool, dict) else {"name": tool, "description": f"{tool} of a key", "inputSchema": TOOL_SCHEMA}


def ask(path: str, question: dict) -> dict:
    """One line of JSON to the socket and one back."""
    connection = socket(AF_UNIX, SOCK_STREAM)
    try:
        connection.connect(path)
        connection.sendall(json.dumps(question).encode() + b"\n")
        answered = b""
        while not answered.endswith(b"\n"):
            part = connection.recv(65536)
            if not part:
                raise OSError("nobody answers")
            answered += part
        return json.loads(answered)
    except (OSError, ValueError) as error:
        return {"error": f"no answer: {error}"}
    finally:
        connection.close()


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
