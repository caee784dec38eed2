"""Register a variant's checkpoint in the MLflow model registry."""

from mde.config import load_section
from mde.files import read_json, write_json
from mde.layout import Layout
from mde.promotion import PromotionConfig
from mde.registry import register
from mde.tracking.delivery import run_id_of
from pipelines._stage import PARAMS, ROOT, Params, Root, Variant, run


def main(variant: Variant, params: Params = PARAMS, root: Root = ROOT) -> None:
    """Write registered/VARIANT.json."""
    layout = Layout(root.resolve())
    config = load_section(params, "promotion", PromotionConfig, optional=True)
    run_id = run_id_of(layout.root, layout.model(variant) / "run.json")
    result = layout.result(variant)
    summary = read_json(result / "metrics.json")
    version = register(layout.root, run_id, summary, result / "per_image.parquet", config)
    write_json(layout.registered(variant), version.as_dict())
    print(f"{version.name} version {version.version} is {version.verdict}: {version.reason}")
    print(f"it loads as {version.uri}")


if __name__ == "__main__":
    run(main)
