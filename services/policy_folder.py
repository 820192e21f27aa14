"""Where the policy that comes with the project lies; known without loading what trains it."""

from pathlib import Path

SHIPPED_POLICY = Path(__file__).parent.parent / "trainer" / "policies" / "nat_small"
"""`natgym policy` makes it anew."""
