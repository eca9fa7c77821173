"""peft's names, imported after bitsandbytes.

peft imports bitsandbytes, and that torch's compiler, in two seconds of every process, unless
`import_kernels` came first.
"""

from tasks.models.quantization import import_kernels

import_kernels()

from peft import (  # noqa: E402
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from peft.utils.transformers_weight_conversion import (  # noqa: E402
    convert_peft_config_for_transformers,
)

__all__ = [
    "LoraConfig",
    "PeftModel",
    "convert_peft_config_for_transformers",
    "get_peft_model",
    "get_peft_model_state_dict",
    "set_peft_model_state_dict",
]
