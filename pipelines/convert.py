"""Convert one raw dataset into Parquet shards and a manifest."""

from collections import Counter

from mde.cluster.convert import run_on_ray
from mde.data.convert import convert
from mde.data.sources import load_source_config
from mde.layout import Layout
from pipelines._stage import PARAMS, ROOT, Dataset, Params, Root, run


def main(dataset: Dataset, params: Params = PARAMS, root: Root = ROOT) -> None:
    """Write data/shards/DATASET."""
    config = load_source_config(params, dataset)
    manifest = convert(config, root.resolve(), Layout(root).shards(dataset).resolve(), run_on_ray)
    counts = ", ".join(f"{count} {split}" for split, count in manifest.counts.items())
    print(f"{dataset}: {counts}; {len(manifest.rejected)} rejected")
    for reason, count in Counter(frame.reason for frame in manifest.rejected).items():
        print(f"  {count} rejected: {reason}")
    if manifest.duplicates:
        print(f"  {len(manifest.duplicates)} groups of frames with the same image, see manifest")


if __name__ == "__main__":
    run(main)
