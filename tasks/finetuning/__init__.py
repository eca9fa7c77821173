"""Tokens in, a LoRA adapter out: QLoRA on the NF4 base."""
