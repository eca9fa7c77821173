"""One training loop, with the loss handed in."""
