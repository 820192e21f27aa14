"""Tasks, tools and rewards, and the loop that plays them. Loads without torch."""
