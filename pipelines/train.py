"""Train a variant; go on from its last checkpoint when an earlier try was interrupted."""

import shutil
from typing import Annotated

import typer

from mde.cluster.fit import FitJob, fit
from mde.cluster.session import ClusterConfig
from mde.config import load_section
from mde.data.curated import load_pictures
from mde.data.current import check_current
from mde.data.publish import published
from mde.data.shards import verified_sha256
from mde.data.sources import load_source_config
from mde.files import fresh_folder, write_json
from mde.layout import Layout
from mde.provenance import Provenance
from mde.storage import Storage, join_uri, require_storage
from mde.tracking.follow import follow
from mde.tracking.model_card import model_files
from mde.tracking.origin import origin_of
from mde.train.checkpoints import RunConfig, checkpoint_names
from mde.variants import load_variant
from pipelines._stage import PARAMS, ROOT, Params, Root, Variant, run

Resume = Annotated[
    bool, typer.Option("--resume/--anew", help="Go on with an interrupted run, or delete it.")
]


def main(
    variant: Variant, params: Params = PARAMS, root: Root = ROOT, resume: Resume = True
) -> None:
    """Write models/VARIANT, and an MLflow run."""
    config, layout = load_variant(params, variant), Layout(root.resolve())
    cluster = load_section(params, "cluster", ClusterConfig)
    keep = load_section(params, "run", RunConfig, optional=True)
    pictures = load_pictures(params, config.dataset)
    data, model = published(layout.shards(config.dataset), cluster.data), layout.model(variant)
    check_current(params, config.dataset, layout.root, data)
    size = config.augment.whole_size(load_source_config(params, config.dataset).size)
    provenance = Provenance.of(config.as_dict(), verified_sha256(data), size)
    runs = keep.storage or str(layout.checkpoints)
    storage = require_storage(join_uri(runs, f"{variant}-{provenance.fingerprint}"))
    if not resume:
        _delete_checkpoints(storage)
    device = "cuda" if cluster.use_gpu else "cpu"
    origin = origin_of(layout.root, params, data, provenance, cluster.num_workers, device)
    with follow(layout.root, storage.uri, provenance, not resume, origin) as tracked:
        checkpoint = fit(
            FitJob(config, data, storage.uri, cluster, provenance.as_dict(), keep, pictures)
        )
        with fresh_folder(model) as folder:
            shutil.copytree(checkpoint, folder / "checkpoint")
        tracked.finish(model / "checkpoint", model_files(model / "checkpoint", data))
    write_json(model / "run.json", tracked.receipt())
    if tracked.delivered:
        storage.delete("")
    else:  # the journal stays, for `mde track sync`
        _delete_checkpoints(storage)


def _delete_checkpoints(storage: Storage) -> None:
    for name in checkpoint_names(storage):
        storage.delete(name)


if __name__ == "__main__":
    run(main)
