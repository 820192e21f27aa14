"""The commands of `natgym`, one module each: `configure` declares arguments, `run` does the work."""
