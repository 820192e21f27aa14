"""How long reasoning stays in a prompt: a choice of its own, because each way costs something else."""

from enum import StrEnum


class ThinkingRetention(StrEnum):
    """How long reasoning stays in the prompt. Each fork costs a sample of its own."""

    TEMPLATE = "template"
    """As long as the chat template keeps it: the prompt is what the model was trained on."""
    TOOL_CYCLE = "tool_cycle"
    """Until the next user message, whatever the template does."""
    ALL = "all"
    """For ever: prompts only grow."""
