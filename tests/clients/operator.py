"""An operator as its users write one with kopf: it owns Garages, and keeps one ConfigMap and one Deployment for each.

Started by crates/ironclad/tests/it/clients.rs as `kopf run`; what it does is judged there through kubectl.
"""

import kopf
from kubernetes import client, config

config.load_kube_config()


@kopf.on.startup()
def configure(settings: kopf.OperatorSettings, **_):
    settings.persistence.finalizer = "garages.example.com/finalizer"


def deployment_of(name, spec):
    label = {"garage": name}
    container = {"name": "car", "image": "none", "env": [{"name": "COLOUR", "value": spec["colour"]}]}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": label},
        "spec": {
            "replicas": spec["cars"],
            "selector": {"matchLabels": label},
            "template": {"metadata": {"labels": label}, "spec": {"containers": [container]}},
        },
    }


@kopf.on.create("example.com", "v1", "garages")
def create(name, namespace, spec, body, patch, **_):
    deployment = deployment_of(name, spec)
    plan = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"{name}-plan"}, "data": {"cars": str(spec["cars"])}}
    for child in (deployment, plan):
        kopf.adopt(child)
    client.AppsV1Api().create_namespaced_deployment(namespace, deployment)
    client.CoreV1Api().create_namespaced_config_map(namespace, plan)
    patch.status["cars"] = spec["cars"]
    kopf.info(body, reason="Built", message=f"for {spec['cars']} cars")
    return {"built": True}


@kopf.on.field("example.com", "v1", "garages", field="spec.cars", old=kopf.PRESENT)
def resize(name, namespace, old, new, patch, **_):
    client.AppsV1Api().patch_namespaced_deployment(name, namespace, {"spec": {"replicas": new}})
    patch.status["cars"] = new
    patch.status["before"] = old


@kopf.on.event("apps", "v1", "deployments", labels={"garage": kopf.PRESENT})
def follow(name, namespace, status, **_):
    if status.get("readyReplicas"):
        where = ("example.com", "v1", namespace, "garages", name)
        try:
            ready = {"status": {"ready": status["readyReplicas"]}}
            client.CustomObjectsApi().patch_namespaced_custom_object_status(*where, ready)
        except client.ApiException as error:
            if error.status != 404:
                raise


@kopf.on.delete("example.com", "v1", "garages")
def delete(name, namespace, **_):
    left = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"{name}-left"}}
    client.CoreV1Api().create_namespaced_config_map(namespace, left)
