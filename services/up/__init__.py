"""A whole run on one machine: three services as child processes, evaluated before and after."""
