"""One page with all results."""

from mde.layout import Layout
from mde.report.page import write_report
from pipelines._stage import ROOT, Root, run


def main(root: Root = ROOT) -> None:
    """Write reports/index.html."""
    layout = Layout(root)
    write_report(layout)
    print(f"the report is {layout.report}")


if __name__ == "__main__":
    run(main)
