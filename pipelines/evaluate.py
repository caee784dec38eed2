"""Score a trained variant on the held-out split, beside two baselines."""

from mde.cluster.inference import ActorPool
from mde.cluster.session import ClusterConfig
from mde.config import load_section
from mde.data.publish import published
from mde.evaluate import evaluate, write_evaluation
from mde.files import fresh_folder
from mde.layout import Layout
from mde.tracking.delivery import run_id_of
from mde.tracking.store import TrackedRun
from mde.variants import load_variant
from pipelines._stage import PARAMS, ROOT, Params, Root, Variant, run


def main(variant: Variant, params: Params = PARAMS, root: Root = ROOT) -> None:
    """Write results/VARIANT."""
    config, layout = load_variant(params, variant), Layout(root.resolve())
    cluster = load_section(params, "cluster", ClusterConfig)
    data, model = published(layout.shards(config.dataset), cluster.data), layout.model(variant)
    mlflow_run = TrackedRun(layout.root, run_id_of(layout.root, model / "run.json"))
    evaluation = evaluate(model / "checkpoint", data, config.protocol, ActorPool(cluster))
    with fresh_folder(layout.result(variant)) as folder:
        write_evaluation(folder, evaluation)
    mlflow_run.log_evaluation(layout.result(variant), evaluation.summary)


if __name__ == "__main__":
    run(main)
