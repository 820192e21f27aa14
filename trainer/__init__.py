"""Updates the policy from scored groups, and serves it."""
