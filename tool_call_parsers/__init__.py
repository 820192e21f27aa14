"""What a model sampled -> OpenAI tool calls, and new messages -> token ids."""
