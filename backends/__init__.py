"""Where commands run: pluggable sandboxes behind one contract."""
