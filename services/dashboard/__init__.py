"""What a run looks like: live in the terminal, as a plot, as a table."""
