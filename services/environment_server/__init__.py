"""The environment server: plays groups where the rollout API wants some, and hands them over."""
