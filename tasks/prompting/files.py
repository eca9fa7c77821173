"""The names of the files that keep a model's prompt beside its weights."""

PROMPT = "prompt"  # the folder
TEMPLATE = "template.jinja"
DEMONSTRATIONS = "demonstrations.json"
GOLDEN = "golden.json"
