"""Score a trained variant on the held-out split, beside two baselines."""

from mde.evaluate import evaluate, write_evaluation
from mde.files import fresh_folder, read_json
from mde.layout import Layout
from mde.tracking import TrackedRun
from mde.variants import load_variant
from pipelines._stage import PARAMS, ROOT, Params, Root, Variant, run


def main(variant: Variant, params: Params = PARAMS, root: Root = ROOT) -> None:
    """Write results/VARIANT."""
    config, layout = load_variant(params, variant), Layout(root.resolve())
    model = layout.model(variant)
    mlflow_run = TrackedRun(layout.root, read_json(model / "run.json")["run_id"])
    evaluation = evaluate(model / "checkpoint", layout.shards(config.dataset), config.protocol)
    with fresh_folder(layout.result(variant)) as folder:
        write_evaluation(folder, evaluation)
    mlflow_run.log_evaluation(layout.result(variant), evaluation.summary)


if __name__ == "__main__":
    run(main)
