"""What sandboxes are made of: a root that shows this machine's own programs, and the recipe of the NAT runtime."""
