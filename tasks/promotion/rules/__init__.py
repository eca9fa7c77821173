"""The rules of promotion, by subject: each a function of the evidence and its block of params."""
