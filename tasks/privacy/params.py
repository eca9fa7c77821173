"""What is done with personal data, by kind."""

from typing import Literal

from pydantic import Field, field_validator

from tasks.stage.params import StageParams

Action = Literal["mask", "drop", "keep"]


class PersonalDataParams(StageParams):
    """What is done where a kind is found: mask it, drop the row, or keep it as it is."""

    secret: Action
    resident_number: Action
    card: Action
    iban: Action
    email: Action
    phone: Action
    phone_regions: list[str] = Field(
        min_length=1, description="ISO 3166 countries of numbers without a country code"
    )

    @field_validator("phone_regions")
    @classmethod
    def _are_regions(cls, regions: list[str]) -> list[str]:
        from phonenumbers import SUPPORTED_REGIONS

        unknown = sorted(set(regions) - SUPPORTED_REGIONS)
        if unknown:
            raise ValueError(f"unknown: {', '.join(unknown)}; expected codes like KR or US")
        return regions
