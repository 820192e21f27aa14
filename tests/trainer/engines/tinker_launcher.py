"""Starts skyrl's Tinker server from a plain virtual environment; runs under `.venv-tinker-server`, not under pytest.

The server has to be told two things: to start its engine with this interpreter (it looks for the `uv run` that it was
started by), and to name the sequences of a sample (the SDK wants one id each from 0.27 on). And under Python 3.11,
which it was not made for, a third: pydantic wants the TypedDict of typing_extensions there.
"""

import argparse
import runpy
import sys
import typing

import typing_extensions

if sys.version_info < (3, 12):
    typing.TypedDict = typing_extensions.TypedDict

import uvicorn
from fastapi import Depends, Request
from skyrl.tinker import api
from skyrl.tinker.config import EngineConfig, add_model, config_to_argv

ENGINE = "skyrl.tinker.engine"
SAMPLE_ROUTE = "/api/v1/asample"


class NamedSamples(api.FutureResponse):
    """The promise of a sample, with an id for each sequence of it."""

    sample_sequence_ids: list[str]


async def named_samples(
    sample: api.SampleRequest, request: Request, session: typing.Annotated[api.AsyncSession, Depends(api.get_session)]
) -> NamedSamples:
    promise = await api.asample(sample, request, session)
    names = [f"{promise.request_id}-{number}" for number in range(sample.num_samples)]
    return NamedSamples(**promise.model_dump(), sample_sequence_ids=names)


def engine_command(_: list[str], config: EngineConfig) -> list[str]:
    return [sys.executable, __file__, ENGINE, *config_to_argv(config)]


def main() -> None:
    if sys.argv[1] == ENGINE:
        del sys.argv[1]
        runpy.run_module(ENGINE, run_name="__main__", alter_sys=True)
        return
    parser = argparse.ArgumentParser()
    add_model(parser, EngineConfig)
    parser.add_argument("--port", type=int, required=True)
    arguments = vars(parser.parse_args())
    port = arguments.pop("port")
    api._build_uv_run_cmd_engine = engine_command
    api.app.state.engine_config = EngineConfig.model_validate(arguments)
    api.app.router.routes[:] = [route for route in api.app.router.routes if getattr(route, "path", "") != SAMPLE_ROUTE]
    api.app.post(SAMPLE_ROUTE, response_model=NamedSamples)(named_samples)
    uvicorn.run(api.app, host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    main()
