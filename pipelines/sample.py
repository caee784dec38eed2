"""Render the built-in sample in the official raw layouts."""

from mde.config import load_section
from mde.data.sample import SampleConfig, write_kitti, write_nyu_labeled
from mde.files import fresh_folder
from mde.layout import Layout
from pipelines._stage import PARAMS, ROOT, Params, Root, run


def main(params: Params = PARAMS, root: Root = ROOT) -> None:
    """Write data/sample/nyu_labeled and data/sample/kitti."""
    config, layout = load_section(params, "sample", SampleConfig), Layout(root)
    with fresh_folder(layout.sample("nyu_labeled")) as folder:
        write_nyu_labeled(folder, config)
    with fresh_folder(layout.sample("kitti")) as folder:
        write_kitti(folder, config)


if __name__ == "__main__":
    run(main)
