"""The names of the files that keep a model's prompt beside its weights."""

PROMPT = "prompt"  # the folder
TEMPLATE = "template.jinja"
DEMONSTRATIONS = "demonstrations.json"
GOLDEN = "golden.json"
CHAT = "chat.json"  # what the base's chat template is bound to, where it is to anything
