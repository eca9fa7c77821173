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

__all__ = [
    "LoraConfig",
    "PeftModel",
    "get_peft_model",
    "get_peft_model_state_dict",
    "set_peft_model_state_dict",
]
