"""An ephemeral system prompt: it steers a rollout and is in no task, so in no conversation that is saved.

Token ids are kept as they were sampled: prompt ids that a trainer learns from hold the words that the policy read. Data that
is written to a file goes without them (`without_tokens`).
"""

from dataclasses import replace

from core.types import Message, Role, ScoredGroup, Task, Trajectory
from environments.policy import Completion, CompletionRequest, Load, Policy, load_of


class SteeredPolicy:
    """Fulfils environments.policy.Policy: adds `words` to the system message of what it is asked, and to nothing else."""

    def __init__(self, policy: Policy, words: str) -> None:
        self._policy, self._words = policy, words

    async def complete(self, request: CompletionRequest) -> Completion:
        """The next turn; see Policy."""
        return await self._policy.complete(replace(request, task=told(request.task, self._words)))

    def load(self) -> Load | None:
        """See HasLoad."""
        return load_of(self._policy)

    async def aclose(self) -> None:
        await self._policy.aclose()


def steered(policy: Policy, words: str) -> Policy:
    """The policy itself where there is nothing to add."""
    return SteeredPolicy(policy, words) if words.strip() else policy


def told(task: Task, words: str) -> Task:
    """The task with `words` at the end of its system message, which is made where there is none."""
    first, *rest = task.messages or (Message(role=Role.SYSTEM),)
    if first.role is not Role.SYSTEM:
        first, rest = Message(role=Role.SYSTEM), [first, *rest]
    text = f"{first.content}\n\n{words.strip()}".strip()
    return task.model_copy(update={"messages": (first.model_copy(update={"content": text}), *rest)})


def without_tokens(group: ScoredGroup) -> ScoredGroup:
    """The group without token ids, which would spell the words out."""
    return group.model_copy(update={"trajectories": tuple(_without_tokens(one) for one in group.trajectories)})


def _without_tokens(one: Trajectory) -> Trajectory:
    nothing = {"prompt_ids": (), "completion_ids": (), "logprobs": ()}
    return one.model_copy(update={"turns": tuple(turn.model_copy(update=nothing) for turn in one.turns)})
