"""How rewards become advantages, and logprobs a loss: one algorithm a file, chosen by name."""
