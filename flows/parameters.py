"""The types of flows' parameters, by which Prefect's form checks what a person enters."""

from typing import Annotated

from pydantic import Field

PresetName = Annotated[str, Field(pattern=r"^[\w-]+$", examples=["tiny"])]

OverrideText = Annotated[str, Field(pattern=r"^\w+\.[^=]+=", examples=["finetuning.epochs=2"])]

# It becomes the name of a file.
NightName = Annotated[
    str, Field(pattern=r"^\w[\w.:+-]*$", max_length=100, examples=["2026-11-28T023000Z"])
]

# Three characters that are not white space.
SIGNATURE = r"^\s*\S\s*\S\s*\S"

Signature = Annotated[str, Field(pattern=SIGNATURE, max_length=100)]

Reason = Annotated[str, Field(pattern=SIGNATURE, max_length=600)]

LedgerHash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

NO_OVERRIDES: list[OverrideText] = []
