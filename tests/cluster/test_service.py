"""The service's configs fit Ray Serve's schema, the service's settings and the cluster."""

import warnings

import pytest
import yaml

from jobs.recipes import recipe
from serve.settings import read_settings
from tests.cluster.manifests import ROOT, cluster_spec, named, pod_templates

SERVICE = "RayService/mindeye"
OWN = ROOT / "serve" / "service.yaml"


@pytest.fixture(scope="module")
def serve():
    """Return Ray Serve's schemas, whose import raises pydantic's deprecation warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from ray.serve import schema
    return schema


def in_kuberay():
    return yaml.safe_load(named(SERVICE)["spec"]["serveConfigV2"])


def configs():
    own = [pytest.param(OWN.read_text(), id="serve/service.yaml")] if OWN.exists() else []
    return [pytest.param(named(SERVICE)["spec"]["serveConfigV2"], id="KubeRay"), *own]


def settings_of(config):
    (application,) = config["applications"]
    return read_settings(application["args"])


def workers():
    """Return the service's worker group and its container's limits."""
    (group,) = cluster_spec(named(SERVICE))["workerGroupSpecs"]
    return group, group["template"]["spec"]["containers"][0]["resources"]["limits"]


def unknown(serve, config):
    """Return keys unknown to Ray Serve's schemas, which would ignore them."""
    parts = [
        (serve.ServeDeploySchema, config),
        (serve.HTTPOptionsSchema, config.get("http_options", {})),
    ]
    parts += [(serve.ServeApplicationSchema, each) for each in config["applications"]]
    return [word for model, part in parts for word in set(part) - set(model.model_fields)]


@pytest.mark.parametrize("text", configs())
def test_ray_serve_and_the_service_take_the_config(serve, text):
    """Oracles: Ray Serve's own schemas; serve.settings.read_settings."""
    config = yaml.safe_load(text)
    (application,) = serve.ServeDeploySchema.model_validate(config).applications
    assert application.import_path == "serve.app:build"
    assert application.deployments == []  # replicas are set by `args`
    assert unknown(serve, config) == []
    assert settings_of(config).require_token


def test_unknown_keys_and_settings_are_found(serve):
    """Oracle: planted mistakes."""
    config = in_kuberay()
    for place in (config, config["http_options"], config["applications"][0]):
        place["replica"] = 2
    assert unknown(serve, config) == ["replica"] * 3
    for args in ({"generator.gpu": 1}, {"predictor.max_replicas": "many"}):
        with pytest.raises(ValueError, match=next(iter(args))):
            read_settings({**config["applications"][0]["args"], **args})


def test_tokens_are_a_mounted_file_everywhere():
    """Oracle: the mounts of all pods, any of which may start the application."""
    file = settings_of(in_kuberay()).token_file
    folder, _, key = file.rpartition("/")
    assert key == "token"
    for template in pod_templates(named(SERVICE)).values():
        mounts = template["spec"]["containers"][0]["volumeMounts"]
        mount = next(each for each in mounts if each["mountPath"] == folder)
        volumes = {each["name"]: each for each in template["spec"]["volumes"]}
        assert volumes[mount["name"]]["secret"]["secretName"] == "mindeye-token"
        assert mount["readOnly"]


def test_all_replicas_fit_into_the_largest_cluster():
    """Oracle: sums of the replicas' resources, and of the pods' limits."""
    group, limits = workers()
    settings = settings_of(in_kuberay())
    parts = (settings.gateway, settings.predictor, settings.generator)
    for most, there in (("max_replicas", group["maxReplicas"]), ("min_replicas", 2)):
        gpus = sum(getattr(part, most) * part.gpus for part in parts[1:])
        cpus = sum(getattr(part, most) * part.cpus for part in parts)
        assert gpus <= there * int(limits["nvidia.com/gpu"])
        assert cpus <= there * int(limits["cpu"])
    assert settings.device == "cuda"


def test_service_uses_the_run_of_the_training_job():
    """Oracle: the run folder of the recipe in train.yaml."""
    assert settings_of(in_kuberay()).run_dir == recipe("mindeye1-subj01").run_dir


def test_the_service_times_out_before_serve_does():
    """Oracle: Serve's limit exceeds that of the service, whose message is the better one."""
    config = in_kuberay()
    limit = settings_of(config).limits.request_seconds
    assert config["http_options"]["request_timeout_s"] > limit


def test_clients_reach_the_served_port():
    """Oracle: the network policy for clients."""
    policy = named("NetworkPolicy/clients")
    (port,) = policy["spec"]["ingress"][0]["ports"]
    assert port["port"] == in_kuberay()["http_options"]["port"]
