"""Language models: prompts, loading and saving, packing, training, generation, embedding."""
