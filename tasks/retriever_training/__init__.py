"""The embedder of search, trained by LoRA on the data's own questions and passages."""
