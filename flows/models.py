"""What is looked at before a row is read: the models that a night starts from, and its split."""

from flows.workspace import Workspace
from tasks.orchestration.base_model import resolve, resolve_base
from tasks.stage.errors import ConfigError
from tasks.stage.outputs import write_atomically
from tasks.stage.params import BaseSource, ModelsParams, RerankingParams, read_yaml


def resolve_models(workspace: Workspace, models: ModelsParams, reranking: RerankingParams) -> None:
    """Have base, embedder, student and cross-encoder in the store."""
    root, paths = workspace.path, workspace.paths()
    store = (root / paths.model_store).resolve()
    store.mkdir(parents=True, exist_ok=True)
    resolve_base(models.base, root, root / paths.base, store)
    resolve(models.embedder, "embedder", root, root / paths.embedder, store)
    if models.student is None:
        # Students are made of the base's own layers.
        write_atomically(root / paths.student_base, (root / paths.base).read_text("utf-8"))
    else:
        # Chats must be the same tokens to both.
        student = BaseSource(**models.student.model_dump(), template=models.base.template)
        resolve_base(student, root, root / paths.student_base, store, role="student")
    if reranking.model is None:
        write_atomically(root / paths.reranker, "null\n")
    else:
        resolve(reranking.model, "reranker", root, root / paths.reranker, store)


def check_split(workspace: Workspace) -> None:
    """Check that models will be asked the test split, by which nothing was chosen.

    Raises:
        ConfigError: another one is named, or none.
    """
    split = read_yaml(workspace.path / "params" / "evaluation.yaml").get("split")
    if split != "test":
        raise ConfigError(
            f"evaluation.split is {split!r}; expected test: a verdict needs the test split, by "
            "which nothing was chosen",
            "write `split: test` in params/evaluation.yaml; `nightloom sweep` itself lets its "
            "trials ask the validation split",
        )
