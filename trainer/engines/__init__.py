"""Where gradients are made: one engine a file, chosen by name."""
