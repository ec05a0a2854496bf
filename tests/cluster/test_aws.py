"""The file for `ray up`: valid for Ray's loader and AWS's API, and closed to the world."""

import copy
import re
import subprocess

import botocore.session
import jsonschema
import pytest
import yaml
from botocore.validate import ParamValidator
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.cluster.manifests import CLUSTER, ROOT


@pytest.fixture
def config():
    return yaml.safe_load((CLUSTER / "aws.yaml").read_text())


def load(config):
    """Load the config as `ray up` does, without its calls to AWS."""
    loaded = prepare_config(copy.deepcopy(config))
    validate_config(loaded)
    return loaded


def test_ray_loads_it(config):
    """Oracle: Ray's own loader and schema."""
    loaded = load(config)
    head, workers = (loaded["available_node_types"][each] for each in ("head", "gpu-spot"))
    assert loaded["head_node_type"] == "head"
    assert (head["max_workers"], workers["min_workers"]) == (0, 0)
    assert workers["max_workers"] == loaded["max_workers"] > 0
    # Ray's default would use pip outside of the environment, which Ubuntu refuses.
    assert loaded["head_setup_commands"] == loaded["setup_commands"]


@pytest.mark.parametrize("mistake", [{"max_wrkers": 2}, {"max_workers": "two"}])
def test_ray_refuses_mistakes(config, mistake):
    """Oracle: a planted mistake."""
    with pytest.raises(jsonschema.ValidationError, match="wrkers|two"):
        load({**config, **mistake})


def test_aws_takes_the_machines(config):
    """Oracle: botocore's description of RunInstances; and a planted mistake."""
    service = botocore.session.get_session().get_service_model("ec2")
    shape = service.operation_model("RunInstances").input_shape
    counts = {"MinCount": 1, "MaxCount": 1}
    for kind in config["available_node_types"].values():
        # Ray passes one of the subnets to each machine.
        node = {k: v for k, v in kind["node_config"].items() if k != "SubnetIds"}
        assert not ParamValidator().validate({**node, **counts}, shape).has_errors()
        assert ParamValidator().validate({**node, **counts, "Spot": 1}, shape).has_errors()


def test_spot_workers_and_a_head_that_stays(config):
    """Oracle: AWS's request field for spot machines."""
    head, workers = (config["available_node_types"][k] for k in ("head", "gpu-spot"))
    assert "InstanceMarketOptions" not in head["node_config"]
    assert workers["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert head["resources"]["CPU"] == 0


def doors_of(node):
    found = []
    if not node.get("SecurityGroupIds"):
        found.append("Ray's own security group lets ssh in from everywhere")
    if node.get("MetadataOptions", {}).get("HttpTokens") != "required":
        found.append("the role's credentials go to whoever asks")
    if not node.get("IamInstanceProfile"):
        found.append("no role")
    if not all(disk["Ebs"].get("Encrypted") for disk in node["BlockDeviceMappings"]):
        found.append("disk is not encrypted")
    return found


def open_doors(config):
    """Return the openings of the cluster to others."""
    found = []
    if config["provider"].get("use_internal_ips") is not True:
        found.append("machines have public addresses")
    for name, kind in config["available_node_types"].items():
        found += [f"{name}: {what}" for what in doors_of(kind["node_config"])]
    for kind in ("head", "worker"):
        start = config[f"{kind}_start_ray_commands"][-1]
        if "RAY_AUTH_MODE=token" not in start:
            found.append(f"{kind}: no token authentication")
        if re.search(r"--dashboard-host=(?!127\.0\.0\.1)", start):
            found.append(f"{kind}: dashboard is open")
    if "~/.ray/auth_token" not in config["file_mounts"]:
        found.append("nodes have no token")
    return found


def test_nothing_is_open(config):
    """Oracle: open_doors."""
    assert open_doors(config) == []


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("provider use_internal_ips", False, "public addresses"),
        ("available_node_types head node_config SecurityGroupIds", [], "ssh in from everywhere"),
        ("available_node_types gpu-spot node_config MetadataOptions", {}, "credentials"),
        ("available_node_types gpu-spot node_config IamInstanceProfile", {}, "no role"),
        ("head_start_ray_commands", ["ray start --head"], "head: no token"),
        (
            "head_start_ray_commands",
            ["RAY_AUTH_MODE=token ray start --dashboard-host=0.0.0.0"],
            "dashboard is open",
        ),
        ("worker_start_ray_commands", ["ray start"], "worker: no token"),
        ("file_mounts", {}, "nodes have no token"),
    ],
)
def test_planted_openings_are_found(config, path, value, message):
    """Oracle: a planted violation."""
    *way, last = path.split()
    place = config
    for step in way:
        place = place[step]
    place[last] = value
    assert any(message in each for each in open_doors(config))


def test_the_commands_are_shell_and_the_mounted_files_are_there(config):
    """Oracles: `bash -n`, which parses without running; the files of the project."""
    for kind in ("setup", "head_start_ray", "worker_start_ray"):
        for command in config[f"{kind}_commands"]:
            subprocess.run(["bash", "-n", "-c", command], check=True)
    own = {k: v for k, v in config["file_mounts"].items() if k.startswith("~/mindeye-dist/")}
    assert len(own) == len(config["file_mounts"]) - 1
    for there, here in own.items():
        assert (ROOT / here).exists()
        assert there == f"~/mindeye-dist/{here}"
    needed = {"pyproject.toml", "requirements.lock", "Makefile", "README.md", "LICENSE"}
    assert needed <= set(own.values())
    assert "requirements.lock" in (ROOT / "Makefile").read_text()  # of `make setup`
