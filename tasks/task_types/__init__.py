"""What can be trained for: a module and a row of a table each; no torch."""
