"""Promotions at once and promotions that are killed: orders of their calls, drawn by chance.

The store is a plain dictionary with the rules of MLflow's: aliases and tags are overwritten, a
param keeps its first value. Every call waits for its turn, and a killed process never gets one
again. The same against a real server: tests/e2e/test_promotion.py.
"""

import random
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from mde import succession
from mde.promotion import Verdict
from mde.succession import CHALLENGER, CHAMPION, MOVING, OVER, PROMOTION, Seat, crown

NAME = "mde-x"


class Killed(BaseException):
    """What ends a process of the play."""


class Play:
    """Processes of which one makes a call at a time, and a clock for those that wait."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.turn = threading.Condition()
        self.current: threading.Thread | None = None
        self.alive: dict[threading.Thread, int | None] = {}
        self.sleeping: set[threading.Thread] = set()
        self.clock = 0.0
        self.faults: list[BaseException] = []

    def start(self, target: Any, calls: int | None) -> None:
        """calls: killed after so many; None: never."""

        def run() -> None:
            try:
                self.wait_for_turn()
                target()
            except Killed:
                pass
            except BaseException as error:
                self.faults.append(error)
            with self.turn:
                del self.alive[threading.current_thread()]
                self.next()

        thread = threading.Thread(target=run, daemon=True)
        self.alive[thread] = calls

    def run(self) -> None:
        threads = list(self.alive)
        for thread in threads:
            thread.start()
        with self.turn:
            self.next()
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive(), "a process never ends"
        assert not self.faults, self.faults

    def next(self) -> None:
        if self.alive:
            # Time passes only when nobody has anything to do: whoever lives is fast enough.
            if self.sleeping >= set(self.alive):
                self.clock += 1
            self.current = self.random.choice(list(self.alive))
        self.turn.notify_all()

    def wait_for_turn(self) -> None:
        me = threading.current_thread()
        with self.turn:
            assert self.turn.wait_for(lambda: self.current is me, 20)

    def step(self) -> None:
        """After a call: it is somebody's turn, or this process is killed."""
        me = threading.current_thread()
        if me not in self.alive:
            return
        left = self.alive[me]
        if left is not None:
            self.alive[me] = left - 1
            if left <= 1:
                raise Killed
        with self.turn:
            self.next()
        self.wait_for_turn()

    def sleep(self, _: float) -> None:
        me = threading.current_thread()
        self.sleeping.add(me)
        self.step()
        self.sleeping.discard(me)


class Store(MlflowClient):
    """The calls of a client that a promotion makes."""

    def __init__(self, versions: int) -> None:
        self.play = Play(0)
        self.tags: dict[str, dict[str, str]] = {str(n + 1): {} for n in range(versions)}
        self.params: dict[str, dict[str, str]] = {f"run-{n}": {} for n in self.tags}
        self.aliases: dict[str, str] = {}

    def get_registered_model(self, name: str) -> Any:
        found = SimpleNamespace(aliases=dict(self.aliases))
        self.play.step()
        return found

    def get_model_version(self, name: str, version: str) -> Any:
        found = self.version(version)
        self.play.step()
        return found

    def version(self, number: str) -> Any:
        tags = dict(self.tags[number])
        return SimpleNamespace(name=NAME, version=number, run_id=f"run-{number}", tags=tags)

    def search_model_versions(self, *_: Any, **__: Any) -> Any:
        found = [self.version(number) for number in self.tags]
        self.play.step()
        return found

    def get_run(self, run_id: str) -> Any:
        params = SimpleNamespace(params=dict(self.params[run_id]))
        self.play.step()
        info = SimpleNamespace(run_id=run_id, lifecycle_stage="active")
        return SimpleNamespace(info=info, data=params)

    def log_param(self, run_id: str, key: str, value: Any, *_: Any, **__: Any) -> Any:
        found = self.params[run_id].setdefault(key, value)
        self.play.step()
        if found != value:
            raise MlflowException("Changing param values is not allowed")

    def set_model_version_tag(self, name: str, version: Any, key: Any, value: Any, *_: Any) -> None:  # type: ignore[override]
        self.tags[version][key] = value
        self.play.step()

    def set_registered_model_alias(self, name: str, alias: str, version: str) -> None:
        self.aliases[alias] = version
        self.play.step()

    def delete_registered_model_alias(self, name: str, alias: str) -> None:
        self.aliases.pop(alias, None)
        self.play.step()


ERRORS = {"1": 0.5, "2": 0.4, "3": 0.2, "4": 0.3}


def play_out(
    monkeypatch: pytest.MonkeyPatch,
    store: Store,
    seed: int,
    versions: str,
    kills: dict[str, int] | None = None,
    by_hand: bool = False,
) -> None:
    """Promote all versions at once; those in `kills` die after so many calls."""
    store.play = play = Play(seed)
    clock = SimpleNamespace(monotonic=lambda: play.clock, sleep=play.sleep)
    monkeypatch.setattr(succession, "time", clock)
    monkeypatch.setattr(succession, "WAIT", 0.5)

    def promotion(version: str) -> None:
        def judge(seat: Seat) -> Verdict:
            play.step()
            better = by_hand or seat.number is None or ERRORS[version] < ERRORS[seat.number]
            return Verdict(better, f"{version} over {seat.number}")

        crown(store, NAME, version, judge, "test")

    for version in versions:
        play.start(lambda version=version: promotion(version), (kills or {}).get(version))
    play.run()


def check(store: Store) -> list[str]:
    """The champions, first to last: each was better than the one before; the last is champion."""
    promoted = {n: t[OVER] for n, t in store.tags.items() if t.get(PROMOTION) == CHAMPION}
    assert len(set(promoted.values())) == len(promoted), f"two over one: {promoted}"
    chain, present = [], "none"
    while follower := next((n for n, over in promoted.items() if over == present), None):
        assert present == "none" or ERRORS[follower] < ERRORS[present]
        chain.append(follower)
        present = follower
    assert len(chain) == len(promoted), f"not a chain: {promoted}"
    return chain


@pytest.mark.parametrize("seed", range(60))
def test_promotions_at_once_make_one_chain(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    store = Store(4)
    play_out(monkeypatch, store, seed, "1234")
    assert check(store)[-1] == store.aliases["champion"] == "3"
    assert {tags[PROMOTION] for tags in store.tags.values()} <= {CHAMPION, CHALLENGER}
    assert store.aliases.get(CHALLENGER) != "3"


@pytest.mark.parametrize("seed", range(120))
def test_promotions_that_are_killed_make_the_same_chain_at_their_second_try(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    store, chance = Store(4), random.Random(seed)
    kills = {version: chance.randrange(1, 35) for version in chance.sample("1234", 3)}
    play_out(monkeypatch, store, seed, "1234", kills)
    champion = store.aliases.get(CHAMPION)
    assert champion is None or store.tags[champion][PROMOTION] in (CHAMPION, MOVING)
    decided = {n for n, t in store.tags.items() if t.get(PROMOTION) in (CHAMPION, CHALLENGER)}
    play_out(monkeypatch, store, seed, "".join(sorted({*"1234"} - decided)))
    assert check(store)[-1] == store.aliases[CHAMPION] == "3"
    assert {tags[PROMOTION] for tags in store.tags.values()} <= {CHAMPION, CHALLENGER}


# As many calls as version 2 makes when nothing disturbs it.
@pytest.mark.parametrize("calls", range(1, 30))
@pytest.mark.parametrize("tool", ["MLflow", "mde promote"])
def test_a_champion_that_came_back_by_hand_is_succeeded_by_one_of_many(
    monkeypatch: pytest.MonkeyPatch, calls: int, tool: str
) -> None:
    store = Store(4)
    play_out(monkeypatch, store, 0, "1")
    play_out(monkeypatch, store, 0, "2", {"2": calls})
    came_back = store.aliases[CHAMPION] == "2"
    if came_back:
        if tool == "MLflow":
            play_out(monkeypatch, store, 0, "2")
            store.aliases[CHAMPION] = "1"
        else:
            play_out(monkeypatch, store, 0, "1", by_hand=True)
        assert store.aliases[CHAMPION] == "1"
    claims = dict(store.params["run-1"])
    play_out(monkeypatch, store, calls, "34")
    assert store.aliases[CHAMPION] == "3"
    over = [store.tags[version][OVER] for version in "34"]
    # One of them met the champion, or the version whose claim stood; the other one its successor.
    first = "1" if came_back or "succeeded_by.mde-x.0" not in claims else "2"
    assert sorted(over) in ([first, "4"], [first, "3"])


def test_a_hand_that_moves_the_alias_after_the_claim_has_its_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Moved(Store):
        def log_param(self, run_id: str, key: str, value: Any, *_: Any, **__: Any) -> Any:
            if key == "succeeded_by.mde-x.0" and run_id == "run-1":
                self.aliases[CHAMPION] = "3"
            super().log_param(run_id, key, value)

    store = Moved(4)
    play_out(monkeypatch, store, 0, "1")
    play_out(monkeypatch, store, 0, "2")
    assert store.aliases == {CHAMPION: "3", CHALLENGER: "2"}
    assert store.tags["2"][OVER] == "3"
    assert store.params["run-1"]["succeeded_by.mde-x.0.done"] == "yes"
