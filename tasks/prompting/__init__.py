"""How a question becomes a prompt."""
