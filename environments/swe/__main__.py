"""`python -m environments.swe serve | process | evaluate | check`."""

from environments.program import become

if __name__ == "__main__":
    become("swe")
