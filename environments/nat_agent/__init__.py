"""Train coding agents to build NeMo Agent Toolkit agents; score them by running what they built."""
