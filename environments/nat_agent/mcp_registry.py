"""The catalogue of MCP servers that a plan may use."""

from environments.nat_agent.plan import PlannedServer

CATALOGUE: tuple[PlannedServer, ...] = (
    PlannedServer(name="yahoo", package="yahoo-finance-mcp", tools=("get_quote",)),
    PlannedServer(name="fmp", package="financial-modeling-prep-mcp", tools=("get_ratios",)),
    PlannedServer(name="stockscreen", package="mcp-stockscreen", tools=("screen",)),
    PlannedServer(name="exa", package="exa-mcp-server", tools=("web_search",)),
    PlannedServer(name="linkup", package="linkup-mcp-server", tools=("search",)),
    PlannedServer(name="sheets", package="google-sheets-mcp", tools=("read_range",)),
    PlannedServer(name="airtable", package="airtable-mcp-server", tools=("list_records",)),
    PlannedServer(name="github", package="github-mcp-server", tools=("search_code",)),
    PlannedServer(name="gitlab", package="gitlab-mcp-server", tools=("list_issues",)),
)
