"""Params of the finetuning stage."""

from typing import Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from tasks.stage.params import ComputeParams, ModelsParams, StageParams
from tasks.training.params import TrainingParams

Method = Literal["qlora", "lora", "dora", "rslora", "full"]


class PreferencesParams(StageParams):
    """How preferences are learned, after the answers; all else is as for these."""

    beta: float = Field(gt=0, le=10, description="how strongly DPO holds to its reference")
    learning_rate: float = Field(gt=0, le=1)
    token_budget: int = Field(ge=256, description="tokens of an epoch of pairs")


class FinetuningParams(TrainingParams):
    """`params/finetuning.yaml`."""

    method: Method
    rank: int = Field(ge=1, le=1024)
    alpha: int = Field(ge=1)
    dropout: float = Field(ge=0, lt=1)
    targets: list[str] | Literal["all"] = Field(
        description="the last parts of the linear layers' names; all: every one"
    )
    init: Literal["default", "gaussian", "pissa"]
    dtype: Literal["float32", "bfloat16"]
    documents_share: float = Field(
        ge=0, lt=1, description="of the budget, for documents as they are, learned before answers"
    )
    preferences: PreferencesParams | None = Field(description="null: no preferences are learned")

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Return the content; what is off is left out, as in adapters from before it existed."""
        content: dict[str, object] = dump(self)
        off = {name for name in ("documents_share", "preferences") if not content[name]}
        return {name: value for name, value in content.items() if name not in off}


class Params(StageParams):
    """What the stage reads."""

    finetuning: FinetuningParams
    models: ModelsParams
    compute: ComputeParams

    @model_validator(mode="after")
    def _agree(self) -> Self:
        """Return the method can be trained on the base's numeric form."""
        method, init, form = self.finetuning.method, self.finetuning.init, self.models.numeric_form
        is_float = form == "float"
        if method == "qlora" and is_float:
            raise ValueError("method qlora needs a quantised base; set models.numeric_form or lora")
        if method in ("lora", "full") and not is_float:
            wanted = "qlora, dora or rslora, or set models.numeric_form: float"
            raise ValueError(f"method {method} needs a float base, and it is {form}; take {wanted}")
        if init == "pissa" and (not is_float or method in ("dora", "full")):
            raise ValueError(
                "init pissa needs a float base and method lora or rslora: it moves what the "
                f"adapter starts from out of the base; found {method} on {form}"
            )
        return self
