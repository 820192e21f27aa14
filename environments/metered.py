"""What a policy costs: the tokens of every completion that it was asked for, those of lost episodes included."""

from environments.policy import Completion, CompletionRequest, Load, Policy, Usage, load_of


class Meter:
    """Tokens so far."""

    def __init__(self) -> None:
        self.used = Usage()

    def add(self, completion: Completion) -> None:
        """Count one: as its server says, else the token ids that came with it."""
        used = completion.usage or Usage(len(completion.prompt_ids), len(completion.completion_ids))
        self.used = Usage(self.used.prompt + used.prompt, self.used.completion + used.completion)


class MeteredPolicy:
    """Fulfils environments.policy.Policy: counts what another one answers."""

    def __init__(self, policy: Policy, meter: Meter) -> None:
        self._policy, self._meter = policy, meter

    async def complete(self, request: CompletionRequest) -> Completion:
        """The next turn; see Policy."""
        completion = await self._policy.complete(request)
        self._meter.add(completion)
        return completion

    def load(self) -> Load | None:
        """See HasLoad."""
        return load_of(self._policy)

    async def aclose(self) -> None:
        await self._policy.aclose()
