"""What a policy costs in tokens, and in money where their price is given."""

import argparse

from environments.base import Environment
from environments.metered import Meter, MeteredPolicy
from environments.policy import Policy, load_of
from services.arena import OpenPolicy

MILLION = 1_000_000


def add_price_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the prices of a million tokens."""
    parser.add_argument("--prompt-price", type=float, metavar="MONEY", help="of a million tokens that are read (not told)")
    parser.add_argument("--completion-price", type=float, metavar="MONEY", help="of a million tokens that are written")


class Cost:
    """Counts what the policies that it opens answer."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._prices = arguments.prompt_price, arguments.completion_price
        self._meter = Meter()
        self._policy: Policy | None = None

    def counting(self, open_policy: OpenPolicy) -> OpenPolicy:
        """The same policy, counted."""

        def opened(environment: Environment) -> Policy:
            self._policy = MeteredPolicy(open_policy(environment), self._meter)
            return self._policy

        return opened

    def now(self) -> str:
        """What was spent so far, and how busy the policy's server is kept at the moment."""
        load = load_of(self._policy) if self._policy is not None else None
        return "   ".join(part for part in (self.line(), load.line() if load else "") if part)

    def money(self) -> float | None:
        """In the currency of the prices; None where none was given."""
        if self._prices == (None, None):
            return None
        return sum(count * (price or 0.0) for count, price in zip(self._meter.used, self._prices, strict=True)) / MILLION

    def line(self) -> str:
        """`4,096 + 812 tokens   cost 0.0123`: read and written; empty where none were counted."""
        used, money = self._meter.used, self.money()
        if not any(used):
            return ""
        return f"{used.prompt:,} + {used.completion:,} tokens" + ("" if money is None else f"   cost {money:.4f}")

    def facts(self) -> dict[str, int | float]:
        """The same for `--json`."""
        used, money = self._meter.used, self.money()
        told: dict[str, int | float] = {"prompt_tokens": used.prompt, "completion_tokens": used.completion}
        return told | ({} if money is None else {"cost": money})
