"""The forms that a model is exported in."""

from enum import StrEnum


class Format(StrEnum):
    """What `nightloom export --format` takes."""

    safetensors = "safetensors"
    gguf_f32 = "gguf-f32"
    gguf_f16 = "gguf-f16"
    gguf_q8_0 = "gguf-q8_0"
    gguf_q4_1 = "gguf-q4_1"
    gguf_q4_0 = "gguf-q4_0"
