"""An evaluated model and the champion that it meets: both tables of single images are found."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow.artifacts
from mlflow import MlflowClient

from mde.errors import InputError
from mde.promotion import (
    NotComparableError,
    PromotionConfig,
    Verdict,
    compare,
    read_per_image,
)
from mde.succession import Seat

TABLE = "evaluation/per_image.parquet"
"""Artifact of a run that was evaluated."""


@dataclass(frozen=True)
class Candidate:
    """A model that was evaluated.

    summary: content of its `metrics.json`. values: the deciding metric of its images, by sample_id.
    """

    summary: dict[str, Any]
    values: dict[str, float]
    config: PromotionConfig

    @classmethod
    def read(cls, summary: dict[str, Any], per_image: Path, config: PromotionConfig) -> "Candidate":
        """Take the values from the table that belongs to `summary`.

        Raises InputError when it does not, or either is not whole.
        """
        try:
            if "test_sha256" not in summary:
                raise NotComparableError("metrics.json beside it has no test_sha256")
            of = summary["protocol"], summary["test_sha256"]
            return cls(summary, read_per_image(per_image, config.metric, *of), config)
        except NotComparableError as error:
            again = f"evaluate again: dvc repro -f -s evaluate@{summary['variant']}"
            raise InputError(f"{per_image}: {error}; {again}") from error

    def tags(self) -> dict[str, str]:
        """What a version of the model registry says of its evaluation."""
        tags = {key: self.summary[key] for key in ("protocol", "test_sha256", "data_sha256")}
        scale = self.summary.get("scale", {})
        scales = {f"scale_{of}": value for of, value in scale.items()}
        for metric, value in {**self.summary["metrics"], **scales}.items():
            tags[metric] = "none" if value is None else f"{value:.6g}"
        return tags

    def judge(self, client: MlflowClient, version: str, seat: Seat) -> Verdict:
        """Compare this model, registered as `version`, with the champion of a seat."""
        if seat.incumbent is None:
            return Verdict(True, "the first one that was evaluated")
        label = f"version {seat.number}"
        try:
            return compare(self.values, self._values_of_champion(client, seat), self.config, label)
        except NotComparableError as error:
            by_hand = f"mde promote models:/{seat.name}/{version} --reason '…'"
            reason = f"not compared with the champion, {label}: {error}. By hand: {by_hand}"
            return Verdict(False, reason)

    def _values_of_champion(self, client: MlflowClient, seat: Seat) -> dict[str, float]:
        assert seat.incumbent is not None
        for key in ("protocol", "test_sha256"):
            found = seat.incumbent.tags.get(key, "unknown")
            if found != self.summary[key]:
                raise NotComparableError(f"its {key} is {found}, here it is {self.summary[key]}")
        if seat.run_id is None:
            raise NotComparableError("its MLflow run is deleted")
        where = f"{TABLE} of its MLflow run {seat.run_id}"
        if not any(file.path == TABLE for file in client.list_artifacts(seat.run_id, "evaluation")):
            raise NotComparableError(f"there is no {where}")
        of = self.summary["protocol"], self.summary["test_sha256"]
        with tempfile.TemporaryDirectory() as folder:
            # Not by the run's id: MLflow's message would leave out what the server has answered.
            uri = f"{client.get_run(seat.run_id).info.artifact_uri}/{TABLE}"
            table = mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=folder)
            try:
                return read_per_image(Path(table), self.config.metric, *of)
            except NotComparableError as error:
                raise NotComparableError(f"{where}: {error}") from error
