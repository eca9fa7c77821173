"""What a model server is told, and what it tells: JSON objects, one a line.

The server knows no registry. Who watches the registry writes orders to the server's standard input
and reads notices from its standard output; when the input ends, the server ends.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from tasks.feedback.exchanges import LogPlace
from tasks.records.schema import ServedModel


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def line(self) -> str:
        """Return the object as one line."""
        return self.model_dump_json() + "\n"


class ServeVersion(_Line):
    """Serve this version of a model from now on, as soon as it is loaded."""

    order: Literal["serve"] = "serve"
    model: ServedModel
    version: int
    alias: str
    bundle: str = Field(description="the folder of the release bundle")


class TellRegistry(_Line):
    """What the registry said last: nothing, or why it could not be asked."""

    order: Literal["registry"] = "registry"
    error: str | None


class KeepLog(_Line):
    """Keep questions, answers and feedback there from now on."""

    order: Literal["log"] = "log"
    place: LogPlace


class Listening(_Line):
    """The server takes requests at this address."""

    notice: Literal["listening"] = "listening"
    address: str


class Serving(_Line):
    """New requests are answered by this version now."""

    notice: Literal["serving"] = "serving"
    model: ServedModel
    version: int
    alias: str
    seconds: float = Field(description="from the order to the first request that it can answer")


class NotServing(_Line):
    """A version could not be loaded; `still` is the one that serves on, None where none does."""

    notice: Literal["not_serving"] = "not_serving"
    model: ServedModel
    version: int
    still: int | None
    error: str


Order = Annotated[ServeVersion | TellRegistry | KeepLog, Field(discriminator="order")]
Notice = Annotated[Listening | Serving | NotServing, Field(discriminator="notice")]
ORDER: TypeAdapter[ServeVersion | TellRegistry | KeepLog] = TypeAdapter(Order)
NOTICE: TypeAdapter[Listening | Serving | NotServing] = TypeAdapter(Notice)
