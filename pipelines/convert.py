"""Convert one raw dataset into Parquet shards and a manifest."""

from mde.cluster.convert import convert
from mde.data.sources import load_source_config
from mde.files import fresh_folder
from mde.layout import Layout
from pipelines._stage import PARAMS, ROOT, Dataset, Params, Root, run


def main(dataset: Dataset, params: Params = PARAMS, root: Root = ROOT) -> None:
    """Write data/shards/DATASET."""
    config = load_source_config(params, dataset)
    with fresh_folder(Layout(root).shards(dataset)) as folder:
        manifest = convert(config, root.resolve(), folder.resolve())
    counts = ", ".join(f"{count} {split}" for split, count in manifest.counts.items())
    print(f"{dataset}: {counts}; {len(manifest.rejected)} rejected")


if __name__ == "__main__":
    run(main)
