"""Which models the page offers, and those that are loaded."""

import itertools
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import mde
from mde.errors import InputError
from mde.files import read_json
from mde.layout import Layout
from mde.predictor import Predictor

KEPT = 3
"""Models that stay loaded: the ones used last."""


@dataclass(frozen=True)
class Offer:
    """A model that may be chosen. source: what `mde.load` takes. label: what people read."""

    source: str
    label: str


def find_offers(root: Path, sources: Sequence[str] = ()) -> list[Offer]:
    """The models named in `sources`, else all that have an alias or are trained below `root`.

    Raises InputError when there is none, or when MLflow does not answer.
    """
    if sources:
        # Asked for twice is offered once.
        return [Offer(source, source) for source in dict.fromkeys(sources)]
    registered = _registered(root)
    # A variant whose run has an alias is there already.
    runs = {run_id for run_id, _ in registered}
    found = [offer for _, offer in registered]
    found += [offer for run_id, offer in _trained(root) if run_id not in runs]
    if not found:
        raise InputError(
            f"{root.resolve()}: no model is registered or trained there; train one (dvc repro), "
            "say where with --root, or name models: mde demo MODEL"
        )
    return found


def _registered(root: Path) -> list[tuple[str, Offer]]:
    """Versions that have an alias, each with the MLflow run that it is of."""
    from mde.registry import CHALLENGER, CHAMPION
    from mde.tracking.store import connect, explained_mlflow, tracking_uri

    # To connect would make an empty store.
    if tracking_uri(root).startswith("sqlite:") and not (root / "mlflow.db").is_file():
        return []
    client, found = connect(root), []
    with explained_mlflow(root):
        models = client.search_registered_models("name LIKE 'mde-%'")
        for alias, model in itertools.product((CHAMPION, CHALLENGER), models):
            if alias in model.aliases:
                version = client.get_model_version_by_alias(model.name, alias)
                label = f"{model.name.removeprefix('mde-')} · {alias} v{version.version}"
                offer = Offer(f"models:/{model.name}@{alias}", label)
                found.append((str(version.run_id), offer))
    return found


def _trained(root: Path) -> list[tuple[str, Offer]]:
    """Variants with a checkpoint, each with its MLflow run."""
    found = []
    for state in sorted(Layout(root).model("*").parent.glob("[!.]*/checkpoint/state.json")):
        folder = state.parent.parent
        record = folder / "run.json"
        run_id = read_json(record).get("run_id", "") if record.is_file() else ""
        found.append((run_id, Offer(str(folder), f"{folder.name} · trained here")))
    return found


class Shelf:
    """Loaded models, the KEPT that were used last. Threads may share it."""

    def __init__(self, root: Path, kept: int = KEPT) -> None:
        self._root, self._kept = root, kept
        self._loaded: OrderedDict[str, Predictor] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        """How many are loaded."""
        return len(self._loaded)

    def predictor(self, source: str) -> Predictor:
        """The model, loaded if need be. Raises InputError as `mde.load` does."""
        with self._lock:
            predictor = self._loaded.pop(source, None) or mde.load(source, root=self._root)
            self._loaded[source] = predictor
            if len(self._loaded) > self._kept:
                self._loaded.popitem(last=False)
            return predictor
