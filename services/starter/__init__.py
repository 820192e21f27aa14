"""What `natgym env init` begins an environment with: real code of a small one, renamed on the way."""
