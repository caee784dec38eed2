"""Known vulnerabilities of the locked packages: `python -m infra.audit`.

pip-audit alone says "No known vulnerabilities found" where it could look up none at all, as on a
network whose mirror has packages and no advisories. Here what was not looked up is counted.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from mde.errors import InputError, explained

ROOT = Path(__file__).parents[1]
LOCKS = (ROOT / "requirements.lock", ROOT / "benchmarks/requirements.txt")
PIN = re.compile(r"^([\w.-]+)(?:\[.*\])?==", re.MULTILINE)
OFFLINE = re.compile(r"^(requests\.exceptions|pip_audit\._service\.interface)\.")
"""What pip-audit dies of when nobody answers, or with an error."""
WAIVERS = Path(__file__).with_name("audit-ignore.txt")


@dataclass(frozen=True)
class Waiver:
    """Why an advisory is let pass. until: the last day."""

    until: date
    reason: str


def read_waivers(path: Path) -> dict[str, Waiver]:
    """Id → waiver. Lines are `ID YYYY-MM-DD reason`; raises InputError for others."""
    found = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            name, until, reason = line.split(maxsplit=2)
            found[name] = Waiver(date.fromisoformat(until), reason)
        except ValueError:
            raise InputError(
                f"{path}, line {number}: found '{line}', expected: ID YYYY-MM-DD reason"
            ) from None
    return found


def look_up(locks: Sequence[Path], osv_url: str | None = None) -> list[dict[str, Any]]:
    """What pip-audit says of each package of this platform: `dependencies` in its JSON.

    Those that it could not look up have a `skip_reason`. osv_url: of a server with OSV's query
    interface, instead of PyPI. Raises InputError with what pip-audit said of a lock that is none.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "audit.json"
        command = [
            sys.executable, "-m", "pip_audit", "--disable-pip", "--require-hashes",
            "--progress-spinner", "off", "--format", "json", "--output", str(out),
            *(["--vulnerability-service", "osv", "--osv-url", osv_url] if osv_url else []),
            *(part for lock in locks for part in ("--requirement", str(lock))),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        # Its exit code is 1 for findings as well as for failures.
        if out.exists():
            dependencies: list[dict[str, Any]] = json.loads(out.read_text())["dependencies"]
            return dependencies
    said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
    if not OFFLINE.search(said):
        raise InputError(f"pip-audit made no list, and said: {said}")
    pins = [name for lock in locks for name in PIN.findall(lock.read_text())]
    return [{"name": name, "skip_reason": said} for name in pins]


def judge(
    dependencies: Sequence[dict[str, Any]], waivers: dict[str, Waiver], today: date
) -> tuple[list[str], list[str]]:
    """Sentences on what must be mended, and on what only has to be known."""
    faults, notes, used = [], [], set()
    for package in dependencies:
        for found in package.get("vulns", ()):
            ids = [found["id"], *found.get("aliases", ())]
            fixed = ", ".join(found["fix_versions"]) or "no version yet"
            text = f"{package['name']} {package['version']}: {' = '.join(ids)}, fixed in {fixed}"
            name = next((name for name in ids if name in waivers), None)
            if name is None:
                faults.append(text)
                continue
            used.add(name)
            let = waivers[name]
            if let.until < today:
                faults.append(f"{text}; it was let pass until {let.until}: {let.reason}")
            else:
                notes.append(f"{text}; let pass until {let.until}: {let.reason}")
    for name in waivers.keys() - used:
        if waivers[name].until < today:
            faults.append(
                f"{WAIVERS.name}: {name} was let pass until {waivers[name].until}; remove it"
            )
    return faults, notes


def report(packages: Sequence[dict[str, Any]], waivers: dict[str, Waiver], strict: bool) -> int:
    """Print what was found; returns the exit code.

    strict: packages that could not be looked up are a fault too.
    """
    faults, notes = judge(packages, waivers, date.today())
    for text in notes:
        print(f"note: {text}")
    for text in faults:
        print(f"error: {text}", file=sys.stderr)
    missing = [package["skip_reason"] for package in packages if "skip_reason" in package]
    if missing:
        print(
            f"warning: {len(missing)} of {len(packages)} packages could not be audited; the first: "
            f"{missing[0]}",
            file=sys.stderr,
        )
    print(f"{len(packages) - len(missing)} packages audited, {len(faults)} faults")
    return int(bool(faults) or (strict and bool(missing)))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m infra.audit", description=__doc__)
    parser.add_argument(
        "locks", nargs="*", type=Path, default=LOCKS, help="requirements with hashes"
    )
    parser.add_argument("--osv-url", help="a server like https://api.osv.dev/v1/query")
    parser.add_argument("--ignored", type=Path, default=WAIVERS, help="what is let pass")
    parser.add_argument("--strict", action="store_true", help="fail if any cannot be audited")
    options = parser.parse_args(arguments)
    with explained(debug=False):
        waivers = read_waivers(options.ignored)
        return report(look_up(options.locks, options.osv_url), waivers, options.strict)


if __name__ == "__main__":
    sys.exit(main())
