"""A stand-in for an SGLang server: the routes and fields of 0.5.23, spoken by a server that samples a real model."""

import asyncio
from datetime import timedelta
from pathlib import Path

import httpx
import torch
import torch.distributed as dist
from pydantic import BaseModel, ConfigDict
from safetensors.torch import load_file
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from torch import Tensor
from torch.distributed.distributed_c10d import Backend, PrefixStore, _new_process_group_helper, _world, rendezvous

from core.errors import TrainingError
from tests.trainer.inference.serving import Adapters, StandIn
from tool_call_parsers.hermes import HermesParser
from tool_call_parsers.rendering import Renderer
from trainer.inference.local_engine import LocalEngine, LocalEngineConfig
from trainer.inference.openai_server import create_app

LIMIT = timedelta(seconds=60)
WORKERS = (
    "/init_weights_update_group",
    "/destroy_weights_update_group",
    "/begin_weight_update",
    "/update_weights_from_distributed",
    "/end_weight_update",
)
COMMANDS = ("/pause_generation", "/continue_generation", "/update_weights_from_disk")


class LoadLoraRequest(BaseModel):
    """What SGLang 0.5.23 reads to load an adapter; it refuses what it does not know."""

    model_config = ConfigDict(extra="forbid")

    lora_name: str
    lora_path: str
    pinned: bool = False


class Worker:
    """The one worker of a server, as SGLang 0.5.23 has it: the other rank of a process group, which takes real tensors.

    Everything that a broadcast brings must have been announced, and comes between begin and end.
    """

    def __init__(self, weights: dict[str, Tensor]) -> None:
        self._weights, self._groups = weights, dict[str, dist.ProcessGroup]()
        self._version: str | None = None
        self._open = False

    def init_weights_update_group(
        self, *, master_address: str, master_port: int, rank_offset: int, world_size: int, group_name: str, backend: str
    ) -> None:  # fmt: skip
        place = f"tcp://{master_address}:{master_port}"
        store, rank, world = next(rendezvous(place, rank_offset, world_size, timeout=LIMIT))
        self._groups[group_name], _ = _new_process_group_helper(
            world, rank, [], Backend(backend), PrefixStore(group_name, store), group_name=group_name, timeout=LIMIT
        )
        _world.pg_group_ranks[self._groups[group_name]] = {one: one for one in range(world)}

    def destroy_weights_update_group(self, *, group_name: str) -> None:
        dist.destroy_process_group(self._groups.pop(group_name))

    def begin_weight_update(self) -> None:
        if self._open:
            raise ValueError("a weight-update session is already open; call end_weight_update() first")
        self._open = True

    def update_weights_from_distributed(self, *, names: list[str], dtypes: list[str], shapes: list[list[int]], **how: object):
        if not self._open:
            raise ValueError("update_weights_from_distributed must run between begin_weight_update() and end_weight_update()")
        assert (how["abort_all_requests"], how["flush_cache"]) == (False, True)
        arrived = dict[str, Tensor]()
        for name, dtype, shape in zip(names, dtypes, shapes, strict=True):
            arrived[name] = torch.empty(shape, dtype=getattr(torch, dtype))
            dist.broadcast(arrived[name], src=0, group=self._groups[str(how["group_name"])])
        if unknown := [name for name in arrived if name not in self._weights]:
            raise ValueError(f"no parameter of this model: {unknown}")
        self._weights |= arrived
        self._version = str(how["weight_version"])

    def end_weight_update(self) -> tuple[dict[str, Tensor], int]:
        if not self._open:
            raise ValueError("no weight-update session is open; call begin_weight_update() first")
        self._open = False
        return self._weights, int(self._version or 0)


class SGLangServer(StandIn):
    """/generate of our own endpoint, by adapters too, and the routes by which weights and adapters are loaded."""

    def __init__(self, model_dir: Path, *, lora: bool = True) -> None:
        """`lora`: started with --enable-lora."""
        self.adapters = Adapters(model_dir)
        self._path, self._lora = model_dir, lora
        routes = [Route(path, self._command, methods=["POST"]) for path in COMMANDS]
        routes += [Route("/generate", self._generate, methods=["POST"]), Route("/health", lambda _: Response())]
        routes += [Route("/load_lora_adapter", self._load, methods=["POST"])]
        routes += [Route("/unload_lora_adapter", self._unload, methods=["POST"]), Route("/v1/models", self._models)]
        self.worker = Worker(load_file(model_dir / "model.safetensors"))
        routes += [Route(path, self._of_workers, methods=["POST"]) for path in WORKERS]
        routes += [Route("/server_info", lambda _: JSONResponse({"tp_size": 1, "dp_size": 1}))]
        routes += [Route("/asked", lambda _: JSONResponse(self.commands))]
        engine = LocalEngine.load(model_dir, LocalEngineConfig(max_batch=8, max_waiting=8))
        super().__init__(Starlette(routes=routes), engine)

    async def _of_workers(self, request: Request) -> Response:
        """Those of /init_weights_update_group and on: 400 with a reason where they fail."""
        name, asked = request.url.path.removeprefix("/"), await request.json()
        self.commands.append(name)
        try:
            if name == "end_weight_update":
                await self.engine.publish(*self.worker.end_weight_update())
            else:
                await asyncio.to_thread(getattr(self.worker, name), **asked)
        except (RuntimeError, TrainingError, ValueError) as error:
            return JSONResponse({"success": False, "message": str(error)}, status_code=400)
        return JSONResponse({"success": True, "message": ""})

    async def _generate(self, request: Request) -> Response:
        body = await request.json()
        name = body.pop("lora_path", None)
        if name is None:
            return await self._answer(self.engine, body)
        if name not in self.adapters:
            return JSONResponse({"error": {"message": f"Got LoRA adapter that has never been loaded: {name}"}}, status_code=400)
        async with self.adapters.running_on(name) as engine:
            return await self._answer(engine, body)

    async def _answer(self, engine: LocalEngine, body: dict[str, object]) -> Response:
        renderer = Renderer.from_directory(self._path)
        app = create_app(engine, renderer, HermesParser(), model_id="policy", model_path=str(self._path))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://inside") as client:
            answer = await client.post("/generate", json=body)
        said = answer.json()
        if answer.status_code == 200:  # labels are texts, and "default" until weights come
            for span in said["meta_info"]["weight_versions"]:
                span["version"] = str(span["version"] or "default")
            said["meta_info"]["weight_version"] = said["meta_info"]["weight_versions"][-1]["version"]
        return JSONResponse(said, answer.status_code)

    async def _models(self, request: Request) -> Response:
        cards = [{"id": "model", "root": str(self._path)}]
        cards += [{"id": name, "root": folder, "parent": "model"} for name, folder in self.adapters.listed()]
        return JSONResponse({"object": "list", "data": cards})

    async def _load(self, request: Request) -> Response:
        asked = LoadLoraRequest.model_validate(await request.json())
        self.commands.append("load")
        if not self._lora:
            return _outcome("LoRA is not enabled. Please set `--enable-lora` to enable LoRA.")
        if asked.lora_name in self.adapters:
            return _outcome(f"Failed to load LoRA adapter {asked.lora_name} because it is already loaded")
        try:
            await self.adapters.load(asked.lora_name, asked.lora_path)
        except ValueError as error:
            return _outcome(str(error))
        return _outcome(None)

    async def _unload(self, request: Request) -> Response:
        name = (await request.json())["lora_name"]
        self.commands.append("unload")
        if name not in self.adapters:
            return _outcome(f"LoRA with name {name} does not exist.")
        self.adapters.unload(name)
        return _outcome(None)

    async def stop(self) -> None:
        await super().stop()
        await self.adapters.aclose()

    async def _command(self, request: Request) -> Response:
        body = await request.json()
        self.commands.append(request.url.path.removeprefix("/"))
        if request.url.path == "/update_weights_from_disk":
            assert (body["abort_all_requests"], body["flush_cache"]) == (False, True)
            try:
                weights = load_file(Path(body["model_path"]) / "model.safetensors")
                await self.engine.publish(weights, int(body["weight_version"]))
            except TrainingError as error:
                return JSONResponse({"success": False, "message": str(error)})
            return JSONResponse({"success": True, "message": "", "num_paused_requests": 0})
        return JSONResponse({"message": "ok"})


def _outcome(error: str | None) -> Response:
    """Loading and unloading answer 400 where they fail, with the reason."""
    return JSONResponse({"success": error is None, "error_message": error}, status_code=200 if error is None else 400)
