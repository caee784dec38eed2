"""Ask the server of this container whether it is well; exit code 1 when it is not.

Docker runs this inside the container. Which server to ask is read from the container's own command;
a container with another command, such as one training run, is well as long as it runs. Kubernetes
does not look at this: its manifests have probes of their own.
"""

import re
import sys
from pathlib import Path
from urllib.request import urlopen

# Below the time limit in the Dockerfile, so that the answer says why.
_SECONDS = 8


def address(command: str) -> str | None:
    """Where the server of a container's command says whether it is well; None without a server.

    Ray's answer is that of this node: its raylet, and on the head the GCS too. Both servers answer
    without a token or password.
    """
    if "mlflow server" in command:
        return f"http://127.0.0.1:{_option(command, '--port|-p', 5000)}/health"
    if "ray start" in command:
        port = _option(command, "--dashboard-agent-listen-port", 52365)
        return f"http://127.0.0.1:{port}/api/healthz"
    return None


def _option(command: str, names: str, default: int) -> int:
    found = re.search(rf"(?:^|\s)(?:{names})[= ](\d+)", command)
    return int(found[1]) if found else default


def ask(url: str) -> str:
    """The beginning of a server's answer; OSError when it is not well or does not answer."""
    with urlopen(url, timeout=_SECONDS) as answer:
        return str(answer.read(200).decode(errors="replace"))


def main() -> None:
    """Exit with code 0 or 1."""
    url = address(Path("/proc/1/cmdline").read_text().replace("\0", " "))
    try:
        print(ask(url) if url else "no server in this container")
    except OSError as problem:
        sys.exit(f"{url}: {problem}")


if __name__ == "__main__":
    main()
