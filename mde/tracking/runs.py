"""Runs in MLflow: found by their key or created, and the parent run of a group."""

from mlflow import MlflowClient
from mlflow.entities import Param, Run, ViewType
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from mde.tracking.run_folder import GROUP_TAG, RunRecord
from mde.tracking.store import EXPERIMENT

KEY_TAG, PARENT_TAG = "mde.run_key", "mde.group_parent"
# What a server takes in one request.
MAX_METRICS, MAX_PARAMS = 1000, 100


def find_run(client: MlflowClient, key: str) -> str | None:
    """Id of the MLflow run with a key; None when MLflow has none."""
    found = _search(client, f"tags.`{KEY_TAG}` = '{key}'")
    return str(found[0].info.run_id) if found else None


def create_run(client: MlflowClient, record: RunRecord) -> str:
    """Create the MLflow run of a training, with its tags; returns its id."""
    run = client.create_run(
        _experiment(client),
        start_time=record.created_ms,
        tags={**record.tags, KEY_TAG: record.key},
        run_name=record.name,
    )
    return str(run.info.run_id)


def send_params(client: MlflowClient, run_id: str, record: RunRecord) -> None:
    """Log a run's parameters; the same ones again change nothing."""
    params = [Param(key, value) for key, value in record.params.items()]
    for start in range(0, len(params), MAX_PARAMS):
        client.log_batch(run_id, params=params[start : start + MAX_PARAMS])


def join_group(client: MlflowClient, run_id: str, record: RunRecord) -> None:
    """Make a run the child of its group's parent run, which is created if need be.

    Two runs may create a parent at the same time. So this is done at a run's start and at its end:
    then both see both, take the same, and the other one, which is no one's parent, is deleted.
    """
    group = record.tags.get(GROUP_TAG)
    if group is None:
        return
    wanted = f"tags.`{PARENT_TAG}` = '{group}'"
    parents = _search(client, wanted)
    if not parents:
        tags = {PARENT_TAG: group}
        made = client.create_run(_experiment(client), record.created_ms, tags, run_name=group)
        client.set_terminated(made.info.run_id, "FINISHED")
        parents = _search(client, wanted) or [made]
    chosen, *others = sorted(str(parent.info.run_id) for parent in parents)
    client.set_tag(run_id, MLFLOW_PARENT_RUN_ID, chosen)
    for other in others:
        if not _search(client, f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{other}'"):
            client.delete_run(other)


def _experiment(client: MlflowClient) -> str:
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None, "connect() creates it"
    return str(experiment.experiment_id)


def _search(client: MlflowClient, wanted: str) -> list[Run]:
    return list(client.search_runs([_experiment(client)], wanted, ViewType.ACTIVE_ONLY, 100))
