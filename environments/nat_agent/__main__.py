"""`python -m environments.nat_agent serve | process | evaluate | check`."""

from environments.program import become

if __name__ == "__main__":
    become("nat_agent")
