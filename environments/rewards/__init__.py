"""Ways to tell right answers from wrong ones that more than one environment may use."""
