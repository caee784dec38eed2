"""Who is champion: the alias moves by claims, so that of two promotions at once one wins.

An alias of MLflow is a plain write. Two processes that both beat version 3 could both set it, and
the later one would never have been compared with the earlier one. The param of a run is different:
its first value stays, and another one is refused (in SQL stores a primary key sees to that). So the
right to succeed a champion is a param of the champion's run, `succeeded_by.<model>.<n>`, with the
number of the version that succeeds it as its value; n counts up, as a champion may come back. While
there is no champion, `first_champion.<model>.<n>` of the lowest version's run takes its place.

A promotion is: 1. read the champion and the first n that is not done, and the champion once more;
2. compare with it; 3. write the reason to the version's tags; 4. claim; 5. move the alias, if it is
still where the claim was made; 6. param `….done`; 7. tag `promotion` = champion.

Why that is right. The alias leaves a champion by a claim alone, and one claim of each n can be won:
who wins it has been compared with that very champion, as nobody else can have moved the alias since
it was read. Who loses it waits for the winner's move and begins again, with the new champion.
Killed before 4, nothing has happened. Killed after it, the version has won: whoever comes next, the
same one at its second try or another one after WAIT seconds, makes steps 5 to 7 for it. Each of
them can be made twice. Killed after 5, the champion has no tag yet that says so: whoever reads it
next makes up for 6 and 7, before anything is decided over it. So a claim that is done is never
taken for an open one, and a person who sets the alias back, by hand or with `mde promote`, leaves
the next n to later promotions. Where the alias was moved by hand between 4 and 5, the hand has its
way: the claim is done without a move, and the version is compared with the one that it finds.

What remains: step 5 reads and writes, and MLflow cannot do both at once. A write that arrives more
than WAIT seconds after the claim, when others have made it already and have gone on to a next
champion, would set the alias back to a former one. And a person who moves it in MLflow itself
between the read and the write, a few ms, is overruled.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from mde.promotion import Verdict

CHAMPION, CHALLENGER, MOVING = "champion", "challenger", "moving"
PROMOTION, REASON, OVER = "promotion", "promotion_reason", "promotion_over"
RECORD = "promotion_record"
"""Tag: who decided, when, and the numbers, as JSON."""
WAIT = 10.0
"""Seconds for which the winner of a claim may take to move the alias itself."""


@dataclass(frozen=True)
class Seat:
    """What can be succeeded, as it was read.

    incumbent: the champion; None: there is none. run_id: of the run that bears the claims; None:
    the champion's run is deleted, or it never had one. key: of the first claim that is not done;
    claimed_by: the version that has won it.
    """

    name: str
    incumbent: ModelVersion | None
    run_id: str | None
    key: str
    claimed_by: str | None

    @property
    def number(self) -> str | None:
        """Version of the champion."""
        return str(self.incumbent.version) if self.incumbent else None


Judge = Callable[[Seat], Verdict]


def crown(client: MlflowClient, name: str, version: str, judge: Judge, by: str) -> None:
    """Let a version become champion if `judge` promotes it over the one that it would succeed.

    Else it becomes challenger. by: who decides, for the tag `promotion_record`.
    """
    claimed = False
    while True:
        if claimed and _tags(client, name, version).get(PROMOTION) == CHAMPION:
            return  # Others have made the move, and may have gone on since.
        seat = _read_seat(client, name)
        if seat.number == version:
            return
        if seat.claimed_by not in (None, version):
            _wait_for_move(client, seat)
            continue
        if seat.claimed_by is None:
            verdict = judge(seat)
            tags = {REASON: verdict.reason, OVER: seat.number or "none"}
            at = datetime.now(UTC).isoformat(timespec="seconds")
            tags[RECORD] = json.dumps({"by": by, "at": at, **verdict.numbers()})
            if not verdict.promoted:
                _challenge(client, name, version, tags)
                return
            set_tags(client, name, version, {PROMOTION: MOVING, **tags})
            if not _claim(client, seat, version):
                continue
        claimed = True
        _move(client, seat, version)


def champion_of(client: MlflowClient, name: str) -> str | None:
    """Version of the champion."""
    return aliases_of(client, name).get(CHAMPION)


def aliases_of(client: MlflowClient, name: str) -> dict[str, str]:
    """Versions by alias."""
    found = client.get_registered_model(name).aliases
    return {alias: str(version) for alias, version in found.items()}


def set_tags(client: MlflowClient, name: str, version: str, tags: dict[str, str]) -> None:
    """Write those tags of a version that differ, in their order."""
    present = _tags(client, name, version)
    for key, value in tags.items():
        if present.get(key) != value:
            client.set_model_version_tag(name, version, key, value)


def _tags(client: MlflowClient, name: str, version: str) -> dict[str, str]:
    return dict(client.get_model_version(name, version).tags)


def _read_seat(client: MlflowClient, name: str) -> Seat:
    number = champion_of(client, name)
    while True:
        incumbent = client.get_model_version(name, number) if number else None
        if incumbent and incumbent.tags.get(PROMOTION) != CHAMPION:
            _complete(client, incumbent)
        seat = _seat(client, name, incumbent)
        # Were it another one by now, its claims might be done: the next n is no right to succeed.
        number = champion_of(client, name)
        if number == seat.number:
            return seat


def _seat(client: MlflowClient, name: str, incumbent: ModelVersion | None) -> Seat:
    run = _bearer(client, name, incumbent)
    prefix = f"succeeded_by.{name}" if incumbent else f"first_champion.{name}"
    params = run.data.params if run else {}
    n = 0
    while f"{prefix}.{n}.done" in params:
        n += 1
    key = f"{prefix}.{n}"
    return Seat(name, incumbent, run.info.run_id if run else None, key, params.get(key))


def _bearer(client: MlflowClient, name: str, incumbent: ModelVersion | None) -> Any:
    """The run whose params are the claims to succeed an incumbent; None: there is none."""
    versions = [incumbent] if incumbent else client.search_model_versions(f"name = '{name}'")
    for version in sorted(versions, key=lambda version: int(version.version)):
        try:
            run = client.get_run(version.run_id) if version.run_id else None
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            continue
        if run and run.info.lifecycle_stage == "active":
            return run
    return None


def _claim(client: MlflowClient, seat: Seat, version: str) -> bool:
    """Whether the seat is this version's."""
    if seat.run_id is None:
        return True  # Nobody else can claim it: a person has decided.
    try:
        client.log_param(seat.run_id, seat.key, version)
    except MlflowException:
        if client.get_run(seat.run_id).data.params.get(seat.key) in (None, version):
            raise
        return False
    return True


def _wait_for_move(client: MlflowClient, seat: Seat) -> None:
    """Wait for the winner of a claim, and make its move when it does not."""
    deadline = time.monotonic() + WAIT
    while time.monotonic() < deadline:
        if champion_of(client, seat.name) != seat.number:
            return
        time.sleep(0.2)
    assert seat.claimed_by is not None
    _move(client, seat, seat.claimed_by)


def _move(client: MlflowClient, seat: Seat, version: str) -> None:
    """Steps 5 to 7 for the version that has won the claim, as far as they are not made."""
    present = champion_of(client, seat.name)
    try:
        if present == seat.number:
            client.set_registered_model_alias(seat.name, CHAMPION, version)
            present = version
    except MlflowException as error:
        # The version has been deleted since.
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
    if present == version:
        _record_move(client, seat, version)
    elif seat.run_id:
        client.log_param(seat.run_id, f"{seat.key}.done", "yes")


def _record_move(client: MlflowClient, seat: Seat, version: str) -> None:
    _drop_challenger(client, seat.name, version)
    if seat.run_id:
        client.log_param(seat.run_id, f"{seat.key}.done", "yes")
    client.set_model_version_tag(seat.name, version, PROMOTION, CHAMPION)


def _complete(client: MlflowClient, champion: ModelVersion) -> None:
    """Make up for what a killed process has left out after it had moved the alias."""
    name, version = champion.name, str(champion.version)
    if champion.tags.get(PROMOTION) != MOVING:
        reason = "made champion by hand, or by an mde that did not compare images"
        set_tags(client, name, version, {REASON: reason, OVER: "unknown"})
    else:
        over = champion.tags[OVER]
        known = {str(v.version): v for v in client.search_model_versions(f"name = '{name}'")}
        if over == "none" or over in known:
            seat = _seat(client, name, known.get(over))
            if seat.claimed_by == version:
                _record_move(client, seat, version)
                return
    _drop_challenger(client, name, version)
    client.set_model_version_tag(name, version, PROMOTION, CHAMPION)


def _drop_challenger(client: MlflowClient, name: str, version: str) -> None:
    if aliases_of(client, name).get(CHALLENGER) == version:
        client.delete_registered_model_alias(name, CHALLENGER)


def _challenge(client: MlflowClient, name: str, version: str, tags: dict[str, str]) -> None:
    """The tag `promotion` comes last: with it the version is decided."""
    set_tags(client, name, version, tags)
    if aliases_of(client, name).get(CHALLENGER) != version:
        client.set_registered_model_alias(name, CHALLENGER, version)
    client.set_model_version_tag(name, version, PROMOTION, CHALLENGER)
