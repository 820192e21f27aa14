"""Tokens in, tokens out: who samples from the policy, and the HTTP that offers it."""
