"""Two SGLang stand-ins, each a process of its own; prints their addresses, and ends with its standard input.

A process group has one rank a process, so the servers cannot live in the process that trains.
"""

import asyncio
import os
import sys
import threading
from pathlib import Path

from tests.trainer.inference.sglang_stand_in import SGLangServer


def end_with_input() -> None:
    sys.stdin.read()
    os._exit(0)


async def serve(model_dir: Path) -> None:
    server = SGLangServer(model_dir)
    sys.stdout.write(f"{server.url}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    os.fork()  # nothing runs yet but this thread, and importing costs more than all the rest
    threading.Thread(target=end_with_input, daemon=True).start()
    asyncio.run(serve(Path(sys.argv[1])))
