"""The tools that come with natgym: what a policy may do in its sandbox and beyond."""
