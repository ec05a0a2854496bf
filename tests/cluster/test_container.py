"""The image: complete, pinned, unprivileged; and every file that cluster/ names exists."""

import re
import shlex
import tomllib

import pytest

from tests.cluster.manifests import CLUSTER, ROOT, cluster_spec, documents, pod_templates

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FOLDERS = {"app", "dev", "home", "run", "shared", "tmp", "usr", "var"}
WRITABLE = {"/tmp", "HOME", "MINDEYE_HOME"}


def instructions(text):
    """Return a container file's instructions as pairs (instruction, arguments)."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


@pytest.fixture
def steps():
    return instructions((CLUSTER / "Containerfile").read_text())


def locked(package):
    return re.search(rf"^{package}==(.*)$", (ROOT / "requirements.lock").read_text(), re.MULTILINE)[
        1
    ]


def environment(steps):
    pairs = [
        word.split("=", 1) for kind, rest in steps if kind == "ENV" for word in shlex.split(rest)
    ]
    return dict(pairs)


def containers():
    for document in documents():
        for template in pod_templates(document).values():
            yield from template["spec"]["containers"]


def targets(steps):
    """Return the base of each build stage, by the stage's name."""
    named_parts = [rest.split() for kind, rest in steps if kind == "FROM"]
    return {words[2]: words[0] for words in named_parts if words[1] == "AS"}


def test_both_targets_stand_on_the_same_environment(steps):
    """Oracle: the file; Ray needs the same Python and packages on every node."""
    found = targets(steps)
    assert found["cpu"] == found["cuda"] == "runtime"
    for base in set(found.values()) - set(found):
        assert re.fullmatch(r"python:3\.\d+-slim-\w+", base)  # by tag, without a registry's host
    assert found["runtime"] == found["environment"]


def test_packages_come_from_the_lock_and_no_tool_stays(steps):
    """Oracle: the file."""
    (install,) = [rest for kind, rest in steps if kind == "RUN" and "pip install" in rest]
    assert "--constraint requirements.lock" in install
    extras = re.search(r"\.\[([\w,]+)\]", install)[1].split(",")
    assert {"jobs"} <= set(extras) <= set(PROJECT["optional-dependencies"]) - {"test"}
    (system,) = [rest for kind, rest in steps if kind == "RUN" and "apt-get" in rest]
    packages = re.search(r"--no-install-recommends ([\w ]+?) +&&", system)[1].split()
    assert packages == ["wget"]


def test_user_is_unprivileged_and_ray_needs_a_token(steps):
    """Oracle: the file; the last USER counts, by number, as in the pods."""
    users = [rest for kind, rest in steps if kind == "USER"]
    user, _, group = users[-1].partition(":")
    assert int(user) > 0
    for document in documents():
        for template in pod_templates(document).values():
            context = template["spec"]["securityContext"]
            assert (context["runAsUser"], context["runAsGroup"]) == (int(user), int(group))
    assert environment(steps)["RAY_AUTH_MODE"] == "token"
    assert "NVIDIA_VISIBLE_DEVICES" not in environment(steps)  # would show every GPU to every pod


def test_writable_folders_are_mounted(steps):
    """Oracle: the image's own variables, and the mounts of every pod."""
    known = environment(steps)
    places = {known.get(place, place) for place in WRITABLE}
    for document in documents():
        for role, template in pod_templates(document).items():
            needed = places if role != "submitter" else places - {known["MINDEYE_HOME"]}
            for container in template["spec"]["containers"]:
                mounted = {each["mountPath"] for each in container["volumeMounts"]}
                assert needed <= mounted
                volumes = {each["name"] for each in template["spec"]["volumes"]}
                assert {each["name"] for each in container["volumeMounts"]} == volumes


def test_the_driver_is_new_enough_for_torch(steps):
    """Oracle: the CUDA version in the lock."""
    major, minor, *_ = locked("cuda-toolkit").split(".")
    assert environment(steps)["NVIDIA_REQUIRE_CUDA"] == f"cuda>={major}.{minor}"


def test_versions_are_those_of_the_project(steps):
    """Oracles: pyproject.toml, requirements.lock."""
    for container in containers():
        image, _, tag = container["image"].partition(":")
        version, _, target = tag.partition("-")
        assert (image, version) == (PROJECT["name"], PROJECT["version"])
        assert target in targets(steps)
        gpu = "nvidia.com/gpu" in container["resources"]["limits"]
        assert target == ("cuda" if gpu else "cpu")
    specs = [cluster_spec(document) for document in documents()]
    assert {spec["rayVersion"] for spec in specs if spec} == {locked("ray")}
    for file in ("Containerfile", "README.md"):
        tags = re.findall(r"mindeye-dist:([\d.]+)-", (CLUSTER / file).read_text())
        assert set(tags) == {PROJECT["version"]}


def test_copied_files_exist_and_nothing_else_is_sent(steps):
    """Oracles: the files of the project; the ignore file of the build."""
    copied = [rest.split() for kind, rest in steps if kind == "COPY"]
    sources = {word for words in copied for word in words[:-1] if not words[0].startswith("--")}
    lines = (CLUSTER / "Containerfile.dockerignore").read_text().splitlines()
    seen = {line[1:] for line in lines if line.startswith("!")}
    assert "*" in lines
    assert {source.split("/")[0] for source in sources} == seen
    for source in sources:
        assert (ROOT / source).exists()
    assert PROJECT["readme"] in sources
    assert set(PROJECT["license-files"]) <= sources


def test_every_named_file_exists():
    """Oracle: the files of the project."""
    for path in sorted(CLUSTER.rglob("*")):
        if path.is_file():
            text = path.read_text()
            named_here = re.findall(r"\b((?:jobs|serve|cluster|tests)/[\w/.-]+\.\w+)", text)
            for name in named_here:
                assert (ROOT / name).exists(), f"{path}: {name}"
            for module in re.findall(r"\b(serve\.\w+):\w+", text):
                assert (ROOT / module.replace(".", "/")).with_suffix(".py").exists()


def test_every_file_is_in_the_readme():
    """Oracle: the files of cluster/."""
    text = (CLUSTER / "README.md").read_text()
    for path in sorted(CLUSTER.rglob("*")):
        if path.is_file() and path.name != "README.md":
            assert path.name in text, path.name


def test_files_name_no_host_account_or_other_folder():
    """Oracle: the folders of the image."""
    for path in sorted(CLUSTER.rglob("*")):
        if path.is_file():
            text = path.read_text()
            assert set(re.findall(r"(?<![\w/.:~$*)>-])/(\w+)", text)) <= FOLDERS, path
            assert set(re.findall(r"https?://([^/:\s]+)", text)) <= {"127.0.0.1"}, path
            assert set(re.findall(r"arn:aws:iam::(\d+)", text)) <= {"0" * 12}, path
