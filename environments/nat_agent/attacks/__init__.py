"""Deliverables that try to earn what they did not build, each with the most that its honest part is worth."""
