"""Clients of natgym's services."""
