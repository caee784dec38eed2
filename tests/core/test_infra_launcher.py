"""The files for `ray up`: Ray accepts them, and they say what a team's cluster must say."""

import copy
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.core.launcher_rules import problems, start_words
from tests.core.manifests import put, read_yaml
from tests.core.ray_facts import ROOT, project_version

OWN, AWS = FILES = ("infra/ray-cluster.yaml", "infra/ray-cluster-aws.yaml")
FOLDER = "/home/mde/.mde-cluster"


@cache
def _read(file: str) -> dict[str, Any]:
    (config,) = read_yaml(ROOT / file)
    return dict(config)


def read(file: str) -> dict[str, Any]:
    return copy.deepcopy(_read(file))


def prepare(config: dict[str, Any]) -> dict[str, Any]:
    """As `ray up` does before it talks to any machine."""
    prepared = prepare_config(config)
    validate_config(prepared)
    return dict(prepared)


@pytest.mark.parametrize("file", FILES)
def test_ray_accepts_it_and_the_rules_are_kept(file: str) -> None:
    assert problems(prepare(read(file))) == []


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("idle_timeout", 5),
        ("docker.imagee", "mde"),
        ("docker.pull_before_run", "often"),
        ("auth.ssh_usr", "ubuntu"),
        ("head_start_commands", ["ray stop"]),
        ("initialization_commands", "ls"),
    ],
)
def test_ray_refuses_a_wrong_key_or_value(file: str, path: str, value: Any) -> None:
    config = read(file)
    put(config, path, value)
    with pytest.raises(jsonschema.ValidationError):
        prepare(config)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("available_node_types.gpu.max_worker", 3),
        ("available_node_types.gpu.resources", {"GPU": "one"}),
        ("provider.security_group", {"IpPermision": []}),
    ],
)
def test_ray_refuses_a_wrong_key_or_value_for_aws(path: str, value: Any) -> None:
    config = read(AWS)
    put(config, path, value)
    with pytest.raises(jsonschema.ValidationError):
        prepare(config)


TOKEN = "--env=RAY_AUTH_MODE=token"


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(
    ("was", "becomes", "found"),
    [
        (f"mde:{project_version()}", "mde:latest", "another image"),
        (TOKEN, "--env=RAY_AUTH_MODE=disabled", "asks for no token"),
        ("auth_token", "../auth_token", "no file with the token"),
        (TOKEN, f"{TOKEN}\n    - --env=RAY_AUTH_TOKEN=abc", "is written down"),
        ("--shm-size=", "--shm=", "no shared memory"),
        ("--cap-drop=ALL", "--privileged", "is privileged"),
        ("--cap-drop=ALL", "--cap-drop=SYS_ADMIN", "has capabilities"),
        ("--num-cpus=0", "--num-cpus=4", "takes work"),
        ("--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0", "shows its dashboard"),
        ("--object-manager-port", "--objct-manager-port", "has no --objct"),
        ("--max-worker-port=19999", "", "no range"),
        ("file_mounts:", "setup_commands: [pip install x]\nfile_mounts:", "not in the image"),
    ],
)
def test_a_broken_rule_is_found(
    file: str, was: str, becomes: str, found: str, tmp_path: Path
) -> None:
    text = (ROOT / file).read_text()
    assert was in text
    broken = tmp_path / "broken.yaml"
    # What stands in the file already gives way: a key may be there once.
    broken.write_text(text.replace("\nsetup_commands: []", "").replace(was, becomes))
    (config,) = read_yaml(broken)
    assert any(found in problem for problem in problems(prepare(config)))


@pytest.mark.parametrize(
    ("path", "value", "found"),
    [
        ("available_node_types.gpu.node_config.SecurityGroupIds", [], "everyone try ssh"),
        ("available_node_types.head.node_config.IamInstanceProfile", {}, "may do too much"),
        ("available_node_types.cpu.node_config.MetadataOptions", {}, "any request"),
        ("available_node_types.cpu.node_config.BlockDeviceMappings.0.Ebs.Encrypted", 0, "encrypt"),
        ("available_node_types.gpu.node_config.InstanceTyp", "g6", 'input: "InstanceTyp"'),
        ("available_node_types.gpu.node_config.InstanceMarketOptions", {"Spot": {}}, '"Spot"'),
        ("available_node_types.head.max_workers", 1, "started twice"),
        ("available_node_types.head.resources", {"CPU": 4}, "one that works"),
        ("available_node_types.cpu.max_workers", 80, "the sum"),
        ("idle_timeout_minutes", 600, "stay and cost"),
    ],
)
def test_a_broken_rule_for_aws_is_found(path: str, value: Any, found: str) -> None:
    config = read(AWS)
    put(config, path, value)
    assert any(found in problem for problem in problems(prepare(config)))


def test_all_machines_of_your_own_are_in_the_cluster() -> None:
    config = prepare(read(OWN))
    (node,) = config["available_node_types"].values()
    machines = len(config["provider"]["worker_ips"])
    assert (node["min_workers"], node["max_workers"]) == (machines, machines)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(
    ("environment", "redis"),
    [("AWS_ACCESS_KEY_ID=abc\n", []), ("REDIS_PASSWORD=a$b\n", ["--redis-password=a$b"])],
)
def test_the_head_gets_the_secrets_of_the_folder(
    file: str, environment: str, redis: list[str], tmp_path: Path
) -> None:
    (tmp_path / "environment").write_text(environment.replace("$", "\\$"))
    command = read(file)["head_start_ray_commands"][-1].replace(FOLDER, str(tmp_path))
    name = environment.split("=")[0]
    # The shell's part of the command, and what Ray's processes inherit; Ray itself is left out.
    shell = f'ray() {{ printf "%s\\n" "$@"; printenv {name}; }}\n{command}'
    run = ["bash", "--norc", "-c", shell]
    printed = subprocess.run(run, capture_output=True, text=True, check=True).stdout.splitlines()
    assert printed[-1] == environment.split("=")[1].strip()
    assert [word for word in printed if word.startswith("--redis")] == redis
    asked = [word for word in start_words(read(file), "head") if word.startswith("--d")]
    assert set(asked) <= set(printed)


@pytest.mark.parametrize("file", FILES)
def test_a_worker_joins_the_head(file: str) -> None:
    assert "--head" in start_words(read(file), "head")
    worker = start_words(read(file), "worker")
    assert "--head" not in worker
    assert "--address=$RAY_HEAD_IP:6379" in worker
