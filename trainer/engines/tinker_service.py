"""A Tinker service behind a few plain calls, each with a deadline. The only module that knows the SDK, tinker 0.38.

The SDK retries for minutes and waits in silence where a limit or the billing stands in its way; here every wait has an
end, and an error says what was waited for and whether the server answers at all. The key is never part of a message.
"""

import asyncio
import logging
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, Protocol, TypeVar

import httpx
from pydantic import SecretStr

from core.errors import ConfigError, MissingRuntime, PolicyError, TrainingError
from core.logs import get_logger
from trainer.algorithms.base import AdamParams

if TYPE_CHECKING:
    import tinker

log = get_logger("tinker")
KEY_VARIABLE = "TINKER_API_KEY"
PROBE_SECONDS = 2.0
PROBES = 3
CLOSE_SECONDS = 10.0
REFUSED = (401, 403)
UNPAID = 402
UNPROCESSABLE = 422
GRAD_NORM = "grad_norm"
HIDDEN = "***"

T = TypeVar("T")


class Row(NamedTuple):
    """One sequence for a loss: what the model reads, and per token of it what it should say next and what that counts.

    All of one length, the sequence's less one. `fields` are the loss's own: weights, or logprobs and advantages.
    """

    inputs: list[int]
    targets: list[int]
    fields: Mapping[str, list[float]]


class ServiceLoss(NamedTuple):
    """A loss by the name that the service has for it, with its settings; clips are bounds of the ratio."""

    name: str
    settings: Mapping[str, float]


class Order(NamedTuple):
    """A completion that is asked for; temperature 0: the likeliest tokens."""

    prompt_ids: Sequence[int]
    max_tokens: int
    temperature: float
    stop_token_ids: Sequence[int]
    seed: int | None


class Sampled(NamedTuple):
    """One completion: ids and logprobs, both (C,), with the stop token; `stopped`: by it, not by the length."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    stopped: bool


class Promise(Protocol[T]):
    """What the SDK hands out for a result to come; covariance is of no use here."""

    def result(self, timeout: float | None = None) -> T: ...

    def future(self) -> "Future[T]": ...


class TinkerService:
    """One session at one service. Safe to use from any thread."""

    def __init__(self, address: str | None, key: SecretStr | None, seconds: float) -> None:
        """Open it: the server answers, and takes the key. `address` None: TINKER_BASE_URL, or else Tinker's own.

        Raises ConfigError for a key that is missing or refused, MissingRuntime, and TrainingError where nobody answers.
        """
        if find_spec("tinker") is None:
            raise MissingRuntime("the engine 'tinker' needs its SDK: pip install 'natgym[tinker]'")
        if key is None:
            raise ConfigError(f"the engine 'tinker' needs a key: set {KEY_VARIABLE} in .env or in the environment")
        import tinker
        from tinker.lib.base_url import resolve_base_url

        self.url = resolve_base_url(address)
        self.seconds = seconds
        """The longest wait for one answer."""
        self._key, self._words = key.get_secret_value(), _LastWords(key.get_secret_value())
        self._pending: set[Future[Any]] = set()
        self._probe()
        rest = self.within(lambda: tinker.RestClient(base_url=self.url, api_key=self._key), "way in")
        known = self.wait(rest.get_server_capabilities(), "list of models").supported_models
        self.models = [one.model_name for one in known if one.model_name]
        self._client = tinker.ServiceClient(base_url=self.url, api_key=self._key, user_metadata={"client": "natgym"})
        log.info("tinker_session", url=self.url, models=len(self.models))

    def create(self, base_model: str, rank: int, seed: int) -> "TinkerModel":
        """A new adapter of a base model. Raises as `wait`."""

        def made() -> "tinker.TrainingClient":
            return self._client.create_lora_training_client(base_model, rank=rank, seed=seed).result()

        return TinkerModel(self, self.within(made, f"adapter of {base_model}"))

    def restore(self, state: str, base_model: str, rank: int, seed: int) -> "TinkerModel":
        """A new adapter with the weights and the optimiser that `TinkerModel.save` kept. Raises as `wait`."""

        def made() -> "tinker.TrainingClient":
            return self._client.create_training_client_from_state_with_optimizer(state).result()

        try:
            return TinkerModel(self, self.within(made, f"state {state}"))
        except TrainingError as error:
            if _status(error) != UNPROCESSABLE:
                raise
        # servers of the older protocol load into a model that there is already
        model = self.create(base_model, rank, seed)
        model.load(state)
        return model

    def close(self) -> None:
        """End the session, so that the service gives its adapters away. Never raises; safe to call twice."""
        self.give_up()
        closing = self._client.close("success")
        try:
            closing.result(min(CLOSE_SECONDS, self.seconds))
        except Exception as error:
            closing.future().cancel()  # it would knock at a server that is gone for as long as this process lives
            log.debug("tinker_session_not_closed", error=self.redacted(error))
        self._words.detach()

    def submitted(self, promise: "Promise[T]") -> "Promise[T]":
        """The promise, remembered until it is kept or given up."""
        future = promise.future()
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)
        return promise

    def give_up(self) -> None:
        """Cancel what was submitted and is not answered.

        The SDK sends it again and again otherwise, and a step whose gradient never came would be taken on the day that the
        server is back.
        """
        for future in tuple(self._pending):
            future.cancel()

    def within(self, call: Callable[[], T], what: str) -> T:
        """What a call of the SDK returns that has no limit of its own. Raises as `wait`."""
        box: Future[T] = Future()

        def run() -> None:
            try:
                box.set_result(call())
            except BaseException as error:
                box.set_exception(error)

        threading.Thread(target=run, name="tinker-call", daemon=True).start()  # it may outlive its deadline
        return self._result(box, box, what)

    def wait(self, promise: "Promise[T]", what: str) -> T:
        """The result of a promise.

        Raises ConfigError where the key or the bill is refused, TrainingError for everything else, the deadline included.
        """
        return self._result(promise, promise.future(), what)

    async def wait_for_sample(self, promise: "Promise[T]", what: str) -> T:
        """The same for who samples: a cancelled call is cancelled at the service. Raises PolicyError."""
        future = promise.future()
        try:
            async with asyncio.timeout(self.seconds):
                return await asyncio.wrap_future(future)
        except TimeoutError as error:
            state = await asyncio.to_thread(self._state)
            raise PolicyError(f"{self.url}: no {what} within {self.seconds:g} seconds; {state}") from error
        except Exception as error:
            raise PolicyError(f"{self.url}: no {what}: {self.redacted(error)}") from error
        finally:
            future.cancel()

    def redacted(self, error: BaseException) -> str:
        """An error in one line, without the key."""
        lines = str(error).splitlines()
        return f"{type(error).__name__}: {lines[0] if lines else ''}".replace(self._key, HIDDEN)

    def _result(self, promise: "Promise[T] | Future[T]", future: "Future[T]", what: str) -> T:
        try:
            return promise.result(self.seconds)
        except TimeoutError as error:
            future.cancel()
            raise TrainingError(f"{self.url}: no {what} within {self.seconds:g} seconds; {self._state()}") from error
        except Exception as error:
            self._refuse(error, what)

    def _refuse(self, error: Exception, what: str) -> NoReturn:
        import tinker

        status = _status(error)
        if status in REFUSED:
            raise ConfigError(f"{self.url} refused the key in {KEY_VARIABLE} ({status}): no {what}") from error
        if status == UNPAID:
            raise ConfigError(f"{self.url} wants its billing settled (402): no {what}") from error
        if type(error) is tinker.TinkerError:  # said of the key before anything was sent
            raise ConfigError(f"{KEY_VARIABLE}: {self.redacted(error)}") from error
        raise TrainingError(f"{self.url}: no {what}: {self.redacted(error)}") from error

    def _probe(self) -> None:
        if problem := self._unwell():
            raise TrainingError(f"no Tinker service at {self.url}: {problem}")

    def _state(self) -> str:
        said = f"; the SDK said: {self._words.last}" if self._words.last else ""
        problem = self._unwell()
        state = f"the server is gone: {problem}" if problem else "the server is up: busy, or at a limit of yours"
        return state + said

    def _unwell(self) -> str | None:
        """Why the server is not well; None where it says that it is."""
        problem: str | None = None
        for _ in range(PROBES):  # one may be late on a busy machine
            try:
                answer = httpx.get(f"{self.url}/api/v1/healthz", timeout=PROBE_SECONDS)
            except httpx.HTTPError as error:
                problem = f"/api/v1/healthz: {type(error).__name__}"
                continue
            return None if answer.status_code == 200 else f"/api/v1/healthz answered {answer.status_code}"
        return problem


class TinkerModel:
    """One adapter at the service: its weights, its gradient, its optimiser. Submit from one thread at a time."""

    def __init__(self, service: TinkerService, client: "tinker.TrainingClient") -> None:
        self._service, self._client = service, client

    def forward(self, rows: Sequence[Row]) -> list[list[float]]:
        """Logprobs of the rows' targets."""
        promise = self._client.forward(_data(rows), "cross_entropy")
        return _logprobs(self._service.wait(promise, "forward pass"), rows)

    def forward_backward(self, rows: Sequence[Row], loss: ServiceLoss) -> "Callable[[], list[list[float]]]":
        """Submit rows whose gradient is added; call what comes back to wait for the logprobs before it."""
        answer = self._client.forward_backward(_data(rows), loss.name, dict(loss.settings) or None)  # pyright: ignore
        promise = self._service.submitted(answer)
        return lambda: _logprobs(self._service.wait(promise, f"{loss.name} gradient"), rows)

    def optim_step(self, params: AdamParams) -> Callable[[], float | None]:
        """Submit a step; call what comes back to wait for the gradient's norm, None where the service keeps it."""
        import tinker

        adam = tinker.AdamParams(
            learning_rate=params.lr,
            beta1=params.betas[0],
            beta2=params.betas[1],
            eps=params.eps,
            weight_decay=params.weight_decay,
            grad_clip_norm=params.grad_clip,
        )
        promise = self._service.submitted(self._client.optim_step(adam))
        return lambda: _grad_norm(self._service.wait(promise, "optimiser step").metrics or {})

    def save(self, name: str, ttl_seconds: int | None) -> str:
        """Keep weights and optimiser at the service. Where: `tinker://...`."""
        return self._service.wait(self._client.save_state(name, ttl_seconds=ttl_seconds), "checkpoint").path

    def load(self, state: str) -> None:
        """Put a state into a model that was used for nothing yet."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # deprecated, and all that older servers know
            promise = self._client.load_state_with_optimizer(state)
        self._service.wait(promise, f"state {state}")

    def snapshot(self) -> "TinkerSnapshot":
        """Somebody who samples with the weights as they are now."""
        promise = self._client.save_weights_and_get_sampling_client()
        return TinkerSnapshot(self._service, self._service.wait(promise, "snapshot for sampling"))


class TinkerSnapshot:
    """Weights to sample with; they never change."""

    def __init__(self, service: TinkerService, client: "tinker.SamplingClient") -> None:
        self._service, self._client = service, client

    async def sample(self, order: Order) -> Sampled:
        """One completion. Raises PolicyError; a cancelled call is cancelled at the service."""
        import tinker

        # no list at all would mean the tokenizer's own end of turn
        params = tinker.SamplingParams(
            max_tokens=order.max_tokens, temperature=order.temperature, stop=list(order.stop_token_ids), seed=order.seed
        )
        promise = self._client.sample(tinker.ModelInput.from_ints(list(order.prompt_ids)), 1, params)
        made = (await self._service.wait_for_sample(promise, "completion")).sequences
        if len(made) != 1 or made[0].logprobs is None:
            raise PolicyError(f"{self._service.url}: {len(made)} completions, or none with logprobs, where one was asked for")
        return Sampled(tuple(made[0].tokens), tuple(made[0].logprobs), made[0].stop_reason == "stop")


def _status(error: BaseException | None) -> int | None:
    """The HTTP status that an error came of, by itself or further down: the SDK stumbles over some that it meets early."""
    while error is not None:
        if isinstance(status := getattr(error, "status_code", None), int):
            return status
        error = error.__cause__ or error.__context__
    return None


def _data(rows: Sequence[Row]) -> "list[tinker.Datum]":
    import numpy as np
    import tinker

    return [
        tinker.Datum(
            model_input=tinker.ModelInput.from_ints(row.inputs),
            loss_fn_inputs={
                "target_tokens": tinker.TensorData.from_numpy(np.asarray(row.targets, dtype=np.int64)),
                **{
                    name: tinker.TensorData.from_numpy(np.asarray(values, dtype=np.float32))
                    for name, values in row.fields.items()
                },
            },
        )
        for row in rows
    ]


def _logprobs(output: "tinker.ForwardBackwardOutput", rows: Sequence[Row]) -> list[list[float]]:
    found = [list(one["logprobs"].data) for one in output.loss_fn_outputs]
    lengths, wanted = [len(one) for one in found], [len(row.targets) for row in rows]
    if lengths != wanted:
        raise TrainingError(f"the Tinker service answered logprobs of rows of {lengths[:3]} tokens for rows of {wanted[:3]}")
    return found


def _grad_norm(metrics: Mapping[str, float]) -> float | None:
    return next((value for name, value in metrics.items() if name.rpartition("/")[2].partition(":")[0] == GRAD_NORM), None)


class _LastWords(logging.Handler):
    """Hears what the SDK logs, as events of ours, and remembers the last warning: why it waits is told nowhere else."""

    def __init__(self, key: str) -> None:
        super().__init__(logging.WARNING)
        self.last = ""
        self._key = key
        logging.getLogger("tinker").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.last = record.getMessage().replace(self._key, HIDDEN)[:300]
        log.warning("tinker_sdk", said=self.last)

    def detach(self) -> None:
        """Hear no more."""
        logging.getLogger("tinker").removeHandler(self)
