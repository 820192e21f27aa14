"""A turn that cannot be read is rolled back and sampled again, from the conversation and the tokens before it.

What was rolled back is in no trajectory, so nothing learns from it. Where a policy is to learn from its mistakes, it is left
at none: what is kept of several samples is no longer drawn from the policy's own distribution.
"""

from collections.abc import Sequence
from dataclasses import replace

from core.logs import get_logger
from environments.policy import Completion, CompletionRequest, Load, Policy, Usage, load_of
from tool_call_parsers.base import CallStatus

log = get_logger("policy")

UNREADABLE = frozenset({CallStatus.UNCLOSED, CallStatus.BAD_JSON})


class ResamplingPolicy:
    """Fulfils environments.policy.Policy: asks again, at most `resamples` times a turn, and keeps the last answer."""

    def __init__(self, policy: Policy, resamples: int) -> None:
        self._policy, self._resamples = policy, resamples

    async def complete(self, request: CompletionRequest) -> Completion:
        """The next turn; see Policy."""
        completion, rolled_back = await self._policy.complete(request), 0
        spent = [completion]
        while rolled_back < self._resamples and is_unreadable(completion):
            rolled_back += 1
            log.debug("turn_rolled_back", episode=request.episode_id, turn=len(request.turns), times=rolled_back)
            completion = await self._policy.complete(request)
            spent.append(completion)
        return replace(completion, rolled_back=rolled_back, usage=_together(spent)) if rolled_back else completion

    def load(self) -> Load | None:
        """See HasLoad."""
        return load_of(self._policy)

    async def aclose(self) -> None:
        await self._policy.aclose()


def resampled(policy: Policy, resamples: int) -> Policy:
    """The policy itself where nothing is to be sampled again."""
    return ResamplingPolicy(policy, resamples) if resamples else policy


def _together(completions: Sequence[Completion]) -> Usage:
    """What all of them cost: as their server says, else the token ids that came with them."""
    each = [one.usage or Usage(len(one.prompt_ids), len(one.completion_ids)) for one in completions]
    return Usage(sum(one.prompt for one in each), sum(one.completion for one in each))


def is_unreadable(completion: Completion) -> bool:
    """Whether a completion says nothing, or holds a call that is cut off or no call at all.

    One of an unknown tool, or with arguments that its schema does not take, can be read: the policy is told.
    """
    message = completion.message
    silent = not (message.content.strip() or message.tool_calls)
    return silent or any(bad.status in UNREADABLE for bad in completion.malformed)
