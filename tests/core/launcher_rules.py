"""What must be so in the files for `ray up`, beyond what Ray's schema says."""

import re
import shlex
from collections.abc import Iterator
from functools import cache
from typing import Any

import botocore.session
from botocore.validate import ParamValidator

from tests.core.ray_facts import project_version, start_options

Config = dict[str, Any]

TOKEN_PATH = "RAY_AUTH_TOKEN_PATH"


def problems(config: Config) -> list[str]:
    """What is wrong in a prepared configuration, one line each."""
    found = [*_container(config), *_commands(config)]
    if config["provider"]["type"] == "aws":
        for name, node in config["available_node_types"].items():
            found += [f"{name}: {line}" for line in _machine(node["node_config"])]
        found += _bounds(config)
    return found


def start_words(config: Config, role: str) -> list[str]:
    """The words of `ray start` on the head or on a worker."""
    command = config[f"{role}_start_ray_commands"][-1]
    return shlex.split(command[command.index("ray start") :])[2:]


def _container(config: Config) -> Iterator[str]:
    docker = config["docker"]
    if not docker["image"].endswith(f"/mde:{project_version()}"):
        yield "docker: another image than that of this version"
    for role in ("head", "worker"):
        options = docker["run_options"] + docker.get(f"{role}_run_options", [])
        named = dict(o.removeprefix("--env=").split("=") for o in options if o.startswith("--env="))
        if named.get("RAY_AUTH_MODE") != "token":
            yield f"{role}: asks for no token"
        if str(named.get(TOKEN_PATH, "")).rpartition("/")[0] not in config["file_mounts"]:
            yield f"{role}: has no file with the token"
        if secret := {n for n in named if re.search("TOKEN$|PASSWORD|SECRET|ACCESS_KEY", n)}:
            yield f"{role}: {', '.join(secret)} is written down"
        if not any(re.fullmatch(r"--shm-size=\d+g", option) for option in options):
            yield f"{role}: no shared memory"
        if not {"--cap-drop=ALL", "--security-opt=no-new-privileges"} <= set(options):
            yield f"{role}: has capabilities, or may get them"
        if any(option.startswith("--privileged") for option in options):
            yield f"{role}: is privileged"


def _commands(config: Config) -> Iterator[str]:
    for key in ("setup_commands", "head_setup_commands", "worker_setup_commands"):
        if config[key]:
            yield f"{key}: installs what is not in the image"
    head = start_words(config, "head")
    if "--num-cpus=0" not in head:
        yield "head: takes work"
    if "--dashboard-host=127.0.0.1" not in head:
        yield "head: shows its dashboard to the network"
    for role in ("head", "worker"):
        options = {w.split("=")[0] for w in start_words(config, role) if w.startswith("--")}
        if strange := options - start_options():
            yield f"{role}: ray start has no {', '.join(sorted(strange))}"
        if not {"--object-manager-port", "--min-worker-port", "--max-worker-port"} <= options:
            yield f"{role}: its ports are no range that a firewall knows"


def _machine(node: Config) -> Iterator[str]:
    if not node.get("SecurityGroupIds"):
        yield "Ray makes a group that lets everyone try ssh"
    if not node.get("IamInstanceProfile"):
        yield "Ray gives it a role that may do too much"
    if node.get("MetadataOptions", {}).get("HttpTokens") != "required":
        yield "its credentials are there for any request"
    if not all(disk["Ebs"].get("Encrypted") for disk in node["BlockDeviceMappings"]):
        yield "a disk is not encrypted"
    # Ray itself chooses one of SubnetIds.
    call = {key: value for key, value in node.items() if key != "SubnetIds"}
    report = ParamValidator().validate(call | {"MinCount": 1, "MaxCount": 1}, _run_instances())
    if report.has_errors():
        yield report.generate_report()


@cache
def _run_instances() -> Any:
    """What AWS takes, as boto knows it."""
    ec2 = botocore.session.get_session().get_service_model("ec2")
    return ec2.operation_model("RunInstances").input_shape


def _bounds(config: Config) -> Iterator[str]:
    nodes = config["available_node_types"]
    if nodes[config["head_node_type"]]["max_workers"] != 0:
        yield "head: may be started twice"
    if nodes[config["head_node_type"]]["resources"] != {"CPU": 0}:
        yield "head: is counted as one that works"
    if config["max_workers"] != sum(node["max_workers"] for node in nodes.values()):
        yield "max_workers is not the sum of those of the kinds of machine"
    if not 1 <= config["idle_timeout_minutes"] <= 60:
        yield "machines go at once, or stay and cost"
