"""What runs inside the sandboxes of a trial, under their own Python: standard library only."""
