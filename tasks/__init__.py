"""The parts of a night: one package a stage, and what they share."""
