"""How a question is answered, wherever it is asked: release bundles and what loads them."""
