"""A durable queue of scored groups between environment servers and a trainer."""
