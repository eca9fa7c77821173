"""Task answer: a question is answered in words, from passages where there are any."""

from tasks.task_types.definition import TaskType

ANSWER = TaskType(
    name="answer",
    prompt="answer",
    says="an answer",
    metric=None,
    metrics=(
        "exact_match",
        "token_f1",
        "rouge_l",
        "chrf",
        "length_ratio",
        "abstention_precision",
        "abstention_recall",
        "groundedness",
        "unsupported",
        "attribution",
        "citation",
        "broken_outputs",
        "cut_outputs",
    ),
    shown=("token_f1", "exact_match"),
)
