"""The trainer as a process: it learns from the rollout API's batches and serves the policy that it trains."""
