"""Environments of other projects, played here as they are."""
