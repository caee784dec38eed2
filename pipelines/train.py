"""Train a variant; go on from its last checkpoint when an earlier try was interrupted."""

import shutil

from mde import tracking
from mde.cluster.fit import FitJob, fit
from mde.cluster.session import ClusterConfig
from mde.config import load_section
from mde.data.shards import verified_sha256
from mde.files import fresh_folder, write_json
from mde.layout import Layout
from mde.provenance import Provenance
from mde.variants import load_variant
from pipelines._stage import PARAMS, ROOT, Params, Root, Variant, run


def main(variant: Variant, params: Params = PARAMS, root: Root = ROOT) -> None:
    """Write models/VARIANT, and an MLflow run."""
    config, layout = load_variant(params, variant), Layout(root.resolve())
    cluster = load_section(params, "cluster", ClusterConfig)
    data = layout.shards(config.dataset)
    provenance = Provenance.of(config.as_dict(), verified_sha256(data))
    name = f"{variant}-{provenance.fingerprint}"
    unfinished = layout.checkpoints / name
    with tracking.open_run(layout.root, unfinished / "mlflow.json", provenance) as mlflow_run:
        job = FitJob(config, data, cluster, provenance.as_dict())
        checkpoint = fit(job, layout.checkpoints, name, mlflow_run.log_epoch)
        mlflow_run.log_files(checkpoint, "checkpoint")
        with fresh_folder(layout.model(variant)) as folder:
            shutil.copytree(checkpoint, folder / "checkpoint")
            write_json(folder / "run.json", {"run_id": mlflow_run.run_id})
    shutil.rmtree(unfinished)


if __name__ == "__main__":
    run(main)
