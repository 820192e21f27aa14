"""The words that the small policy copies from a plan into its files: whole tokens of its tokenizer."""

from environments.nat_agent import words
from environments.nat_agent.mcp_registry import catalogue
from environments.nat_agent.plan import Scaffold

FILLERS = ("and", "moon", "the")  # between the words of the texts that tools are tried on
YEARS = ("2023", "2024", "2025")  # of the dates that tools are tried on


def copied_words() -> tuple[str, ...]:
    """Every word that fills a gap of a request, every catalogue name and every scaffold, sorted."""
    lists = (
        words.THINGS, words.SERVICES, words.BILLED, words.CHARGES, words.REDUCTIONS, words.AMOUNTS, words.MEASURES,
        words.LEVELS, words.SHAPES, words.MARKS, words.COLLECTIONS, words.PERSONS,
    )  # fmt: skip
    units = [unit for sizes in words.UNITS.values() for unit in sizes]
    servers = [name for server in catalogue() for name in (server.name, server.package)]
    scaffolds = [str(one) for one in (Scaffold.REACT, Scaffold.TOOL_CALLING, Scaffold.REWOO)]
    return tuple(sorted({word for group in (*lists, units, servers, scaffolds, FILLERS, YEARS) for word in group}))
