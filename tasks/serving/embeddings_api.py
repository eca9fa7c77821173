"""`POST /v1/embeddings` in OpenAI's form: texts in, the vectors of a bundle's embedder out."""

import base64
from typing import Annotated, Any, Literal

import numpy as np
import orjson
from pydantic import BaseModel, ConfigDict, Field

from tasks.feedback.params import RequestParams
from tasks.records.schema import ServedModel
from tasks.serving.openai_api import RequestError, served_name
from tasks.serving.protocol import ServeVersion
from tasks.serving.requests import Embedded


class EmbeddingsBody(BaseModel):
    """The body of `POST /v1/embeddings`; fields that are not known here have no effect."""

    model_config = ConfigDict(extra="allow")

    model: str = Field(max_length=100)
    input: Any = Field(json_schema_extra={"type": ["string", "array"], "items": {"type": "string"}})
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    truncate: bool | None = Field(
        default=None,
        description="whether the beginning of a text that is too long is enough; not OpenAI's",
    )

    def served_name(self, served: list[ServedModel]) -> ServedModel:
        """Return whose bundle's embedder is asked.

        Raises:
            RequestError: it is none of the server's models.
        """
        return served_name(self.model, served)

    def texts(self, bounds: RequestParams) -> list[str]:
        """Return what is to be embedded.

        Raises:
            RequestError: it is no text, or more than is taken.
        """
        texts = [self.input] if isinstance(self.input, str) else self.input
        if not isinstance(texts, list) or not texts:
            raise _wrong("input is neither a text nor a list of texts")
        if isinstance(texts[0], (int, list)):
            raise _wrong(
                "input holds token ids, and those of another model mean other words here: send "
                "text (LangChain's OpenAIEmbeddings: check_embedding_ctx_length=False)",
                "unsupported_value",
            )
        if len(texts) > bounds.texts:
            raise _wrong(
                f"there are {len(texts)} texts; at most {bounds.texts} are taken (requests.texts)",
                "array_above_max_length",
            )
        for number, text in enumerate(texts):
            if not isinstance(text, str) or not text.strip():
                raise _wrong(f"text {number} is empty, or no text")
        characters = sum(map(len, texts))
        if characters > bounds.text_characters:
            raise _wrong(
                f"the texts have {characters} characters; at most {bounds.text_characters} are "
                "taken (requests.text_characters)",
                "context_length_exceeded",
            )
        return texts

    def ignored(self) -> list[str]:
        """Return the names of what was sent and has no effect."""
        return [name for name, value in (self.model_extra or {}).items() if value is not None]


def _wrong(message: str, code: str | None = None) -> RequestError:
    return RequestError(message, param="input", code=code)


def embeddings_json(order: ServeVersion, found: Embedded, form: str | None) -> bytes:
    """Return OpenAI's list of embeddings as JSON; floats are 32-bit, in base64 little-endian.

    `nightloom` says which embedder made them, how long a text it reads, and how many it cut.
    """
    rows = np.ascontiguousarray(found.vectors, dtype="<f4")
    vectors = [base64.b64encode(row).decode() for row in rows] if form == "base64" else rows
    data = [
        {"object": "embedding", "index": number, "embedding": vector}
        for number, vector in enumerate(vectors)
    ]
    content = {
        "object": "list",
        "data": data,
        "model": f"nightloom-{order.model}",
        "usage": {"prompt_tokens": found.tokens, "total_tokens": found.tokens},
        "nightloom": {
            "version": order.version,
            "alias": order.alias,
            "embedder": found.digest,
            "max_tokens": found.max_tokens,
            "cut": found.cut,
        },
    }
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
