"""Register a variant's checkpoint in the MLflow model registry."""

from mde.files import read_json, write_json
from mde.layout import Layout
from mde.registry import register
from mde.tracking.delivery import run_id_of
from pipelines._stage import ROOT, Root, Variant, run


def main(variant: Variant, root: Root = ROOT) -> None:
    """Write registered/VARIANT.json."""
    layout = Layout(root.resolve())
    run_id = run_id_of(layout.root, layout.model(variant) / "run.json")
    summary = read_json(layout.result(variant) / "metrics.json")
    version = register(layout.root, run_id, summary)
    write_json(layout.registered(variant), version.as_dict())
    print(f"{version.name} version {version.version} is {version.alias}: {version.uri}")


if __name__ == "__main__":
    run(main)
