"""The official Python client against a running cluster: every way it has to create, patch, list, watch and exec.

Run by crates/ironclad/tests/it/clients.rs with KUBECONFIG set and the image of a shell as its argument. Ends with an
assertion's traceback when the server answers otherwise than upstream's does; prints one line for each part that held.
"""

import datetime
import sys
import threading
import time

from kubernetes import client, config, dynamic, utils, watch
from kubernetes.client.exceptions import ApiException
from kubernetes.stream import portforward, stream

IMAGE = sys.argv[1]
SPACE = "python"
JSON_PATCH = "application/json-patch+json"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"

config.load_kube_config()
api = client.ApiClient()
core, apps, rbac = client.CoreV1Api(), client.AppsV1Api(), client.RbacAuthorizationV1Api()


def refused(status, reason, call, *arguments, **options):
    """The call must fail so."""
    try:
        call(*arguments, **options)
    except ApiException as error:
        assert error.status == status, error
        assert f'"reason":"{reason}"' in error.body, error.body
        return error.body
    raise AssertionError(f"{call} was not refused")


def deployment(replicas=1):
    return client.V1Deployment(
        metadata=client.V1ObjectMeta(name="web", labels={"app": "web"}),
        spec=client.V1DeploymentSpec(
            replicas=replicas,
            selector=client.V1LabelSelector(match_labels={"app": "web"}),
            template=client.V1PodTemplateSpec(
                metadata=client.V1ObjectMeta(labels={"app": "web"}),
                spec=client.V1PodSpec(
                    termination_grace_period_seconds=1,
                    containers=[
                        client.V1Container(
                            name="web",
                            image=IMAGE,
                            command=["sh", "-c", "trap 'exit 0' TERM; echo started; httpd -f -p 8080 -h /tmp & wait"],
                            env=[client.V1EnvVar(name="A", value="1")],
                            resources=client.V1ResourceRequirements(requests={"cpu": "10m", "memory": "8Mi"}),
                        )
                    ],
                ),
            ),
        ),
    )


def basics():
    version = client.VersionApi().get_code()
    assert (version.major, version.minor) == ("1", "37"), version
    assert "v1" in client.CoreApi().get_api_versions().versions
    assert "apps" in [group.name for group in client.ApisApi().get_api_versions().groups]
    core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=SPACE)))
    made = core.create_namespaced_config_map(
        SPACE, client.V1ConfigMap(metadata=client.V1ObjectMeta(generate_name="made-"), data={"a": "b"})
    )
    assert made.metadata.name.startswith("made-") and len(made.metadata.name) == 10, made.metadata.name
    assert isinstance(made.metadata.creation_timestamp, datetime.datetime)
    read = core.read_namespaced_config_map(made.metadata.name, SPACE)
    assert read == made, (read, made)
    read.data["a"] = "c"
    replaced = core.replace_namespaced_config_map(made.metadata.name, SPACE, read)
    assert replaced.data == {"a": "c"}
    refused(409, "Conflict", core.replace_namespaced_config_map, made.metadata.name, SPACE, made)
    refused(409, "AlreadyExists", core.create_namespace, {"metadata": {"name": SPACE}})
    refused(404, "NotFound", core.read_namespaced_config_map, "none", SPACE)
    refused(422, "Invalid", core.create_namespaced_config_map, SPACE, {"metadata": {"name": "No_Label"}})
    dry = core.create_namespaced_config_map(SPACE, {"metadata": {"name": "dry"}}, dry_run="All")
    assert dry.metadata.uid
    refused(404, "NotFound", core.read_namespaced_config_map, "dry", SPACE)
    status = core.delete_namespaced_config_map(made.metadata.name, SPACE)
    assert status["status"] == "Success", status


def patches():
    apps.create_namespaced_deployment(SPACE, deployment())

    def patch(body, kind, **options):
        return apps.patch_namespaced_deployment("web", SPACE, body, _content_type=kind, **options)

    def env(of):
        return {item.name: item.value for item in of.spec.template.spec.containers[0].env}

    pods = {"containers": [{"name": "web", "env": [{"name": "B", "value": "2"}]}]}
    assert env(patch({"spec": {"template": {"spec": pods}}}, STRATEGIC)) == {"A": "1", "B": "2"}
    merged = patch({"metadata": {"labels": {"tier": "front", "app": None}}}, MERGE)
    assert merged.metadata.labels == {"tier": "front"}
    # A strategic patch without an order puts what it adds before what is there.
    where = "/spec/template/spec/containers/0/env/0"
    steps = [{"op": "test", "path": where + "/name", "value": "B"}, {"op": "replace", "path": where + "/value", "value": "3"}]
    assert env(patch(steps, JSON_PATCH)) == {"A": "1", "B": "3"}
    steps[0]["value"] = "C"
    refused(422, "Invalid", patch, steps, JSON_PATCH)
    applied = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {"replicas": 2}}
    conflict = refused(409, "Conflict", patch, applied, APPLY, field_manager="applier")
    assert "conflict with \\\"OpenAPI-Generator\\\" using apps/v1" in conflict, conflict
    forced = patch(applied, APPLY, field_manager="applier", force=True)
    assert forced.spec.replicas == 2
    owners = {field.manager: field.operation for field in forced.metadata.managed_fields}
    assert owners["applier"] == "Apply", owners
    scale = apps.patch_namespaced_deployment_scale("web", SPACE, {"spec": {"replicas": 1}})
    assert (scale.spec.replicas, scale.status.selector) == (1, "app=web")
    refused(422, "Invalid", patch, {"spec": {"nothing": 1}}, MERGE, field_validation="Strict")


def lists_and_watches():
    for index in range(25):
        labels = {"parity": "odd" if index % 2 else "even"}
        core.create_namespaced_config_map(SPACE, {"metadata": {"name": f"item-{index:02}", "labels": labels}})
    names, page, pages = [], core.list_namespaced_config_map(SPACE, limit=10), 1
    assert page.metadata.remaining_item_count == 16, page.metadata  # with kube-root-ca.crt
    first = page.metadata.resource_version
    core.create_namespaced_config_map(SPACE, {"metadata": {"name": "later"}})
    while True:
        names += [item.metadata.name for item in page.items]
        if not page.metadata._continue:
            break
        page = core.list_namespaced_config_map(SPACE, limit=10, _continue=page.metadata._continue)
        assert page.metadata.resource_version == first
        pages += 1
    assert (len(names), pages, names) == (26, 3, sorted(names)) and "later" not in names
    odd = core.list_namespaced_config_map(SPACE, label_selector="parity in (odd),parity!=even")
    assert len(odd.items) == 12
    one = core.list_namespaced_config_map(SPACE, field_selector="metadata.name=item-03")
    assert [item.metadata.name for item in one.items] == ["item-03"]

    since, seen, watcher = odd.metadata.resource_version, [], watch.Watch()
    ready = threading.Event()

    def change():
        ready.wait(30)
        core.patch_namespaced_config_map("item-00", SPACE, {"metadata": {"labels": {"parity": "odd"}}})
        core.patch_namespaced_config_map("item-00", SPACE, {"data": {"a": "b"}})
        core.patch_namespaced_config_map("item-00", SPACE, {"metadata": {"labels": {"parity": "even"}}})
        core.delete_namespaced_config_map("item-01", SPACE)
        core.create_namespaced_config_map(SPACE, {"metadata": {"name": "last", "labels": {"parity": "odd"}}})

    changer = threading.Thread(target=change)
    changer.start()
    ready.set()
    events = watcher.stream(
        core.list_namespaced_config_map,
        SPACE,
        label_selector="parity=odd",
        resource_version=since,
        timeout_seconds=60,
        allow_watch_bookmarks=True,
    )
    for event in events:
        seen.append((event["type"], event["object"].metadata.name))
        if event["object"].metadata.name == "last":
            watcher.stop()
    changer.join()
    expected = [("ADDED", "item-00"), ("MODIFIED", "item-00"), ("DELETED", "item-00"), ("DELETED", "item-01")]
    assert seen == expected + [("ADDED", "last")], seen
    refused(400, "BadRequest", core.list_namespaced_config_map, SPACE, limit=1, _continue="nonsense")
    deleted = core.delete_collection_namespaced_config_map(SPACE, label_selector="parity")
    assert deleted.kind == "ConfigMapList", deleted
    left = [item.metadata.name for item in core.list_namespaced_config_map(SPACE).items]
    assert left == ["kube-root-ca.crt", "later"], left


def pods():
    watcher, name = watch.Watch(), None
    for event in watcher.stream(core.list_namespaced_pod, SPACE, label_selector="app=web", timeout_seconds=90):
        pod = event["object"]
        started = pod.status.container_statuses and pod.status.container_statuses[0].ready
        if started and not pod.metadata.deletion_timestamp:
            name = pod.metadata.name
            watcher.stop()
    assert name, "no pod got ready"
    assert core.read_namespaced_pod_log(name, SPACE) == "started\n"
    connect = core.connect_get_namespaced_pod_exec
    both = {"stdout": True, "stderr": True, "stdin": False, "tty": False}
    said = stream(connect, name, SPACE, command=["sh", "-c", "echo out; echo err >&2"], **both)
    assert sorted(said.split()) == ["err", "out"], said
    session = stream(connect, name, SPACE, command=["sh"], _preload_content=False, **{**both, "stdin": True})
    session.write_stdin("echo $((6 * 7))\n")
    assert session.readline_stdout(timeout=30) == "42"
    session.write_stdin("exit 3\n")
    session.run_forever(timeout=30)
    assert session.returncode == 3, session.returncode
    session.close()
    forward = portforward(core.connect_get_namespaced_pod_portforward, name, SPACE, ports="8080")
    socket = forward.socket(8080)
    socket.setblocking(True)
    socket.sendall(b"GET /none HTTP/1.0\r\n\r\n")
    answer = b""
    while data := socket.recv(1024):
        answer += data
    assert b" 404 " in answer[:16], (answer, forward.error(8080))
    refused(404, "NotFound", core.read_namespaced_pod_log, "none", SPACE)
    eviction = client.V1Eviction(metadata=client.V1ObjectMeta(name=name))
    core.create_namespaced_pod_eviction(name, SPACE, eviction)


def access():
    core.create_namespaced_service_account(SPACE, {"metadata": {"name": "robot"}})
    request = client.AuthenticationV1TokenRequest(
        spec=client.V1TokenRequestSpec(audiences=[], expiration_seconds=600)
    )
    token = core.create_namespaced_service_account_token("robot", SPACE, request).status.token
    mine = client.Configuration.get_default_copy()
    mine.cert_file = mine.key_file = None
    mine.api_key["authorization"] = "Bearer " + token
    robot = client.CoreV1Api(client.ApiClient(mine))
    refused(403, "Forbidden", robot.list_namespaced_pod, SPACE)
    review = client.AuthenticationV1Api(client.ApiClient(mine)).create_self_subject_review({})
    assert review.status.user_info.username == f"system:serviceaccount:{SPACE}:robot"
    rules = [client.V1PolicyRule(api_groups=[""], resources=["pods"], verbs=["list"])]
    rbac.create_namespaced_role(SPACE, client.V1Role(metadata=client.V1ObjectMeta(name="list"), rules=rules))
    binding = client.V1RoleBinding(
        metadata=client.V1ObjectMeta(name="list"),
        role_ref=client.V1RoleRef(api_group="rbac.authorization.k8s.io", kind="Role", name="list"),
        subjects=[client.RbacV1Subject(kind="ServiceAccount", name="robot", namespace=SPACE)],
    )
    rbac.create_namespaced_role_binding(SPACE, binding)
    # A grant is in force when the authorizer's own watch has seen it.
    deadline = time.monotonic() + 30
    while True:
        try:
            assert robot.list_namespaced_pod(SPACE).items is not None
            break
        except ApiException as error:
            assert error.status == 403 and time.monotonic() < deadline, error


def custom_objects():
    definition = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "crontabs.python.example.com"},
        "spec": {
            "group": "python.example.com",
            "scope": "Namespaced",
            "names": {"kind": "CronTab", "plural": "crontabs", "singular": "crontab"},
            "versions": [
                {
                    "name": "v1",
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "schema": {
                        "openAPIV3Schema": {
                            "type": "object",
                            "properties": {
                                "spec": {
                                    "type": "object",
                                    "properties": {"every": {"type": "integer", "minimum": 1}, "unit": {"type": "string", "default": "m"}},
                                },
                                "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                            },
                        }
                    },
                }
            ],
        },
    }
    client.ApiextensionsV1Api().create_custom_resource_definition(definition)
    watcher = watch.Watch()
    for event in watcher.stream(client.ApiextensionsV1Api().list_custom_resource_definition, timeout_seconds=60):
        conditions = {item.type: item.status for item in event["object"].status.conditions or []}
        if conditions.get("Established") == "True":
            watcher.stop()
    kinds = dynamic.DynamicClient(api)
    crontabs = kinds.resources.get(api_version="python.example.com/v1", kind="CronTab")
    tab = {"apiVersion": "python.example.com/v1", "kind": "CronTab", "metadata": {"name": "one"}, "spec": {"every": 5}}
    made = crontabs.create(body=tab, namespace=SPACE)
    assert (made.spec.every, made.spec.unit) == (5, "m")
    tab["spec"]["every"] = 6
    applied = crontabs.server_side_apply(
        body=tab, namespace=SPACE, name="one", field_manager="applier", force_conflicts=True
    )
    assert applied.spec.every == 6 and applied.metadata.generation == 2
    status = crontabs.status.patch(
        body={"status": {"last": "now"}}, name="one", namespace=SPACE, content_type=MERGE
    )
    assert status.status.last == "now" and status.metadata.generation == 2
    custom = client.CustomObjectsApi()
    where = ("python.example.com", "v1", SPACE, "crontabs")
    body = refused(422, "Invalid", custom.patch_namespaced_custom_object, *where, "one", {"spec": {"every": 0}})
    assert "spec.every in body should be greater than or equal to 1" in body, body
    assert [item["metadata"]["name"] for item in custom.list_namespaced_custom_object(*where)["items"]] == ["one"]
    crontabs.delete(name="one", namespace=SPACE)
    types = []
    for event in crontabs.watch(namespace=SPACE, resource_version=made.metadata.resourceVersion, timeout=60):
        types.append(event["type"])
        if event["type"] == "DELETED":
            break
    assert types == ["MODIFIED", "MODIFIED", "DELETED"], types
    manifest = {"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"a": "b"}}]}
    utils.create_from_dict(api, manifest, namespace=SPACE)
    assert core.read_namespaced_secret("s", SPACE).data == {"a": "Yg=="}


def everything():
    """The models check every field's type: no kind's discovery or list may have one that they refuse."""
    accepted = 0
    for name in filter(lambda name: name.endswith("Api"), dir(client)):
        # Their list of events refuses events without a time, which upstream lists, too.
        if name in ("CustomObjectsApi", "EventsV1Api"):
            continue
        group = getattr(client, name)()
        for method in dir(group):
            whole = method.startswith("list_") and not method.startswith("list_namespaced_")
            if not (whole or method.startswith("get_api_")) or method.endswith(("_with_http_info", "_without_preload_content")):
                continue
            try:
                getattr(group, method)()
                accepted += 1
            except ApiException as error:
                # Versions that are off unless asked for.
                assert error.status == 404 and any(word in name for word in ("alpha", "beta", "Internal", "Lifecycle")), (name, error)
    assert accepted > 100, accepted


def end():
    apps.delete_namespaced_deployment("web", SPACE, propagation_policy="Foreground")
    watcher, types = watch.Watch(), []
    version = core.list_namespace().metadata.resource_version
    core.delete_namespace(SPACE)
    options = {"field_selector": f"metadata.name={SPACE}", "resource_version": version, "timeout_seconds": 90}
    for event in watcher.stream(core.list_namespace, **options):
        types.append(event["type"])
        if event["type"] == "DELETED":
            watcher.stop()
    assert types[-1:] == ["DELETED"], types


for part in (basics, patches, lists_and_watches, pods, access, custom_objects, everything, end):
    part()
    print("held:", part.__name__, flush=True)
