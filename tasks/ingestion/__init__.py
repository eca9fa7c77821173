"""New data: where they come from, and the intakes that keep them."""
