"""The agent inside a sandbox: runs commands and moves files for the host, over one socket.

Standard library only, any Python from 3.9, and nothing of natgym but this folder: it is shown to sandboxes that hold
neither. `backends.agent.main:main` is run with the number of its end of a stream socketpair.

Every request gets exactly one reply, and nothing is sent unasked (frames.py). When the socket closes, the agent kills
what it started and ends. Every command runs under a nanny: a fork of the agent that is a subreaper, so whatever a
command leaves behind is found below one process (nannies.py). A nanny with nothing left below it takes the next command.
Any other ends with its command, and the leftovers become children of the agent that belong to no job; these are killed
until there are none (loop.py). As PID 1 of a namespace, the agent cannot be killed from inside.
"""
