"""What the chart makes of its values, held against Kubernetes' schemas and against what the daemon does."""

import kubernetes_validate
import pytest
import yaml

import chart
from chart import EVERYTHING, VARIANTS, helm, one, render
from conftest import bundled_languages
from runnerd.config.reference import reference
from runnerd.executors.pods.manifest import Owner, Wanted, labels
from runnerd.executors.pods.settings import PodSettings
from runnerd.plugins import find_plugins

VERSIONS = kubernetes_validate.utils.all_versions()


@pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS)
def test_valid_in_every_version(values: dict) -> None:
    """Strictly: a field that Kubernetes does not know is an error as well."""
    for document in render(values):
        for version in VERSIONS:
            kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS)
def test_lint(values: dict) -> None:
    report = helm.lint(chart.CHART, values, strict=True)
    assert [message for message in report["messages"] if message["severity"] > 1] == []


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"replica": 2}, "replica"),
        ({"replicas": -1}, "replicas"),
        ({"sandboxes": {"port": 80}}, "port"),
        ({"redis": {"url": "redis.example"}}, "url"),
        ({"images": {"pullPolicy": "Sometimes"}}, "pullPolicy"),
    ],
)
def test_wrong_values_are_named(values: dict, words: str) -> None:
    with pytest.raises(helm.HelmError, match=words):
        render(values)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"replicas": 2, "secrets": ["keys"]}, r"redis\.url"),
        ({"replicas": 2, "redis": {"external": True}}, "API_KEY"),
        ({"autoscaling": {"enabled": True}, "secrets": ["keys"]}, r"redis\.url"),
        ({"replicas": 2, "secrets": ["keys"], "redis": {"external": True}, "persistence": {"enabled": True}}, "persistence"),
        ({"nats": {"expose": True}}, "NATS_TOKEN"),
        ({"nats": {"expose": True, "url": "nats://a"}, "secrets": ["keys"]}, "embedded"),
        ({"sandboxes": {"createNamespace": True}}, r"sandboxes\.namespace"),
    ],
)
def test_what_can_not_work_is_refused(values: dict, words: str) -> None:
    with pytest.raises(helm.HelmError, match=words):
        render(values)


@pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS)
def test_variables_are_the_daemons(values: dict) -> None:
    """Each variable that the chart sets is one that the daemon knows."""
    known = {name for row in reference(find_plugins()) for name in row.variables}
    container = one(render(values), "Deployment")["spec"]["template"]["spec"]["containers"][0]
    assert {each["name"] for each in container["env"]} - known == set()


def test_policy_selects_the_daemons_sandboxes() -> None:
    """Labels and port are those that the executor gives to pods."""
    rendered = render({})
    variables = {each["name"]: each["value"] for each in one(rendered, "Deployment")["spec"]["template"]["spec"]["containers"][0]["env"]}
    settings = PodSettings(instance=variables["RUNNERD_PODS_INSTANCE"], port=int(variables["RUNNERD_PODS_PORT"]))
    language = next(iter(bundled_languages().values()))
    wanted = Wanted(name="a", language=language, memory_bytes=1, cpu_cores=1, proof="")
    marks = labels(wanted, settings, Owner("b", "c"))

    policy = one(rendered, "NetworkPolicy", "-sandboxes")["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= marks.items()
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert "egress" not in policy
    [rule] = policy["ingress"]
    assert rule["ports"] == [{"protocol": "TCP", "port": PodSettings().port}]
    [source] = rule["from"]
    daemon = one(rendered, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert source["podSelector"]["matchLabels"].items() <= daemon.items()


def test_a_namespace_of_sandboxes_is_closed() -> None:
    rendered = render(EVERYTHING)
    everything = one(rendered, "NetworkPolicy", "-default")
    assert everything["metadata"]["namespace"] == "boxes"
    assert everything["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    [rule] = one(rendered, "NetworkPolicy", "-sandboxes")["spec"]["ingress"]
    assert rule["from"][0]["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": chart.NAMESPACE}
    assert one(rendered, "Namespace")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_daemon_reaches_the_servers_that_values_name() -> None:
    egress = one(render(EVERYTHING), "NetworkPolicy", "-daemon")["spec"]["egress"]
    assert {each["port"] for each in egress[1]["ports"]} == {53, 443, 6443, 4222, 4223, 5671, 6380, 9000}
    assert {each["port"] for each in one(render({}), "NetworkPolicy", "-daemon")["spec"]["egress"][1]["ports"]} == {53, 443, 6443}


@pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS)
def test_rights_are_the_least(values: dict) -> None:
    rendered = render(values)
    role = one(rendered, "Role")
    rights = {(group, kind): set(rule["verbs"]) for rule in role["rules"] for group in rule["apiGroups"] for kind in rule["resources"]}
    assert rights == {
        ("", "pods"): {"create", "delete", "list", "watch", "patch"},
        ("batch", "jobs"): {"create", "delete"},
        ("coordination.k8s.io", "leases"): {"get", "list", "watch", "create", "update", "delete"},
        ("", "events"): {"list"},
        ("networking.k8s.io", "networkpolicies"): {"list"},
    }
    assert role["metadata"]["namespace"] == values.get("sandboxes", {}).get("namespace", chart.NAMESPACE)
    for cluster_role in (each for each in rendered if each["kind"] == "ClusterRole"):
        assert cluster_role["rules"] == [
            {"apiGroups": ["node.k8s.io"], "resources": ["runtimeclasses"], "resourceNames": ["gvisor"], "verbs": ["get"]}
        ]


@pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS)
def test_daemon_is_confined(values: dict) -> None:
    pod = one(render(values), "Deployment")["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    [container] = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["readinessProbe"]["httpGet"] == {"path": "/ready", "port": "http"}


def test_configuration_is_word_for_word() -> None:
    text = "[limits]\nwall_s = 5 # seconds\n\n[languages.py]\nwarm = 7\n"
    assert one(render({"config": text}), "ConfigMap")["data"]["runnerd.toml"].strip() == text.strip()


def test_every_value_has_a_rule() -> None:
    """values.schema.json and values.yaml name the same settings."""

    def names(value: object, rule: dict, path: str = "") -> set[str]:
        if not isinstance(value, dict) or "properties" not in rule:
            return set()
        below = [names(each, rule["properties"].get(key, {}), f"{path}{key}.") for key, each in value.items()]
        return {path + key for key in value.keys() ^ rule["properties"].keys()}.union(*below)

    with helm.Chart.load(chart.CHART) as loaded:
        values = yaml.safe_load((chart.CHART / "values.yaml").read_text())
        missing = names(values, loaded.schema)
    assert missing == {"global", *(f"probes.{probe}.initialDelaySeconds" for probe in values["probes"]), "probes.startup.timeoutSeconds"}
