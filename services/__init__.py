"""Processes, HTTP and the command line: everything is wired here, and nothing below knows about it."""
