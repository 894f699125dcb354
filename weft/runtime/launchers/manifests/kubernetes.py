"""Documents for Kubernetes: a LeaderWorkerSet, or StatefulSets with a headless service."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from weft.runtime.launch_plan.memory import MIB
from weft.runtime.launchers.environment import PORT
from weft.runtime.launchers.manifests.deployment import (
    AGENT_SOCKET,
    CACHE,
    LAYOUT,
    RUNTIME,
    SECRETS,
    USER,
    ContainerDeployment,
    escaped,
    probe,
    secret_names,
)

Document = dict[str, object]
LEADER, WORKER = "leader", "worker"
_START = {"periodSeconds": 5, "failureThreshold": 720}
"""An hour: hosts wait for each other, and may download the model, before the server answers."""


def lws(deployment: ContainerDeployment) -> list[Document]:
    """A LeaderWorkerSet of one group. A host that is lost is waited for, so its end does not recreate the group."""
    deployment = _literal(deployment)
    group = "leaderworkerset.sigs.k8s.io"
    place = ("$(LWS_WORKER_INDEX)", "$(LWS_GROUP_SIZE)", "$(LWS_LEADER_ADDRESS)")
    template: Document = {
        "size": deployment.hosts,
        "restartPolicy": "None",
        "leaderTemplate": _template(deployment, LEADER, place, {}),
        "workerTemplate": _template(deployment, WORKER, place, {}),
    }
    spec: Document = {"replicas": 1, "startupPolicy": "LeaderCreated", "leaderWorkerTemplate": template}
    selector = {f"{group}/name": deployment.name, f"{group}/worker-index": "0"}
    return [
        *_shared(deployment),
        _service(deployment, f"{deployment.name}-api", selector),
        _object("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet", deployment, deployment.name, spec=spec),
    ]


def statefulset(deployment: ContainerDeployment) -> list[Document]:
    """A StatefulSet of host 0 and one of the others, whose pods find host 0 by its name in a headless service. All
    start at once: host 0 is ready only when the others are there."""
    deployment = _literal(deployment)
    name = deployment.name
    leader = f"{name}-{LEADER}"
    place = ("$(POD_INDEX)", str(deployment.hosts), f"{leader}-0.{name}")
    index: Document = {"POD_INDEX": {"fieldRef": {"fieldPath": "metadata.labels['apps.kubernetes.io/pod-index']"}}}
    headless: Document = {
        "clusterIP": "None",
        "publishNotReadyAddresses": True,
        "selector": {"app.kubernetes.io/name": name},
        "ports": [{"name": "hosts", "port": PORT}],
    }
    sets = [(LEADER, 1, 0), *([(WORKER, deployment.hosts - 1, 1)] if deployment.hosts > 1 else [])]
    return [
        *_shared(deployment),
        _object("v1", "Service", deployment, name, spec=headless),
        _service(deployment, f"{name}-api", _labels(deployment, LEADER)),
        *(
            _set(deployment, role, count, first, _template(deployment, role, place, index))
            for role, count, first in sets
        ),
    ]


def _set(deployment: ContainerDeployment, role: str, count: int, first: int, template: Document) -> Document:
    spec: Document = {
        "replicas": count,
        "serviceName": deployment.name,
        "podManagementPolicy": "Parallel",
        "ordinals": {"start": first},
        "selector": {"matchLabels": _labels(deployment, role)},
        "template": template,
    }
    return _object("apps/v1", "StatefulSet", deployment, f"{deployment.name}-{role}", spec=spec)


def _literal(deployment: ContainerDeployment) -> ContainerDeployment:
    return replace(deployment, words=tuple(escaped(deployment.words, "$(")))


def _object(version: str, kind: str, deployment: ContainerDeployment, name: str, **rest: object) -> Document:
    labels = {"app.kubernetes.io/name": deployment.name}
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "labels": labels}, **rest}


def _labels(deployment: ContainerDeployment, role: str) -> dict[str, str]:
    return {"app.kubernetes.io/name": deployment.name, "app.kubernetes.io/component": role}


def _shared(deployment: ContainerDeployment) -> list[Document]:
    """What all pods mount."""
    layout = _object("v1", "ConfigMap", deployment, f"{deployment.name}-layout", data={LAYOUT.name: deployment.layout})
    if deployment.secrets is None:
        return [layout]
    data = deployment.secrets
    return [layout, _object("v1", "Secret", deployment, deployment.secret_name, type="Opaque", stringData=data)]


def _service(deployment: ContainerDeployment, name: str, selector: Mapping[str, str]) -> Document:
    port = {"name": "http", "port": deployment.port, "targetPort": "http"}
    return _object("v1", "Service", deployment, name, spec={"selector": dict(selector), "ports": [port]})


def _template(deployment: ContainerDeployment, role: str, place: tuple[str, str, str], variables: Document) -> Document:
    """A pod's. `place`: number of the host, number of hosts, where host 0 is; `variables`: that they need."""
    rank, nnodes, head = place
    leader = role == LEADER
    volumes, mounts = _volumes(deployment, leader=leader)
    container: Document = {
        "name": "weft",
        "image": deployment.image,
        "args": deployment.words_of("0" if leader else rank, nnodes, head, leader=leader),
        "env": [{"name": name, "valueFrom": source} for name, source in variables.items()],
        "ports": [{"name": "http", "containerPort": deployment.port}] if leader else [],
        **_probes(deployment, leader=leader),
        "resources": _resources(deployment, 0 if leader else 1),
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": mounts,
    }
    apart = {
        "weight": 100,
        "podAffinityTerm": {
            "topologyKey": "kubernetes.io/hostname",
            "labelSelector": {"matchLabels": {"app.kubernetes.io/name": deployment.name}},
        },
    }
    spec: Document = {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": int(deployment.drain_s) + 15,
        # What Pod Security "restricted" asks for; with the group, files of the volumes can be read.
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [apart]}},
        "containers": [{name: value for name, value in container.items() if value != []}],
        "volumes": volumes,
    }
    return {"metadata": {"labels": _labels(deployment, role)}, "spec": spec}


def _probes(deployment: ContainerDeployment, *, leader: bool) -> Document:
    if not leader:
        ready, alive = probe(AGENT_SOCKET), probe(AGENT_SOCKET, alive=True)
        asked = {"timeoutSeconds": 10, "periodSeconds": 10}
        return {
            "startupProbe": {"exec": {"command": alive}, **asked, "failureThreshold": 360},
            "livenessProbe": {"exec": {"command": alive}, **asked, "failureThreshold": 6},
            "readinessProbe": {"exec": {"command": ready}, **asked},
        }

    def get(path: str) -> Document:
        return {"httpGet": {"path": path, "port": "http"}, "timeoutSeconds": 5}

    return {
        "startupProbe": {**get("/health"), **_START},
        "livenessProbe": {**get("/health"), "periodSeconds": 10, "failureThreshold": 6},
        "readinessProbe": {**get("/ready"), "periodSeconds": 5},
    }


def _resources(deployment: ContainerDeployment, first: int) -> Document:
    """Pods of a template are alike: they get what the largest of their hosts needs."""
    own = deployment.memory[:1] if first == 0 else deployment.memory[1:]
    memory = f"{max(own, default=deployment.memory[0]) // MIB}Mi"
    return {"requests": {"cpu": str(deployment.cpus), "memory": memory}, "limits": {"memory": memory}}


def _volumes(deployment: ContainerDeployment, *, leader: bool) -> tuple[list[Document], list[Document]]:
    names = secret_names(deployment, leader=leader)
    secret = {
        "secretName": deployment.secret_name,
        "defaultMode": 0o440,
        "items": [{"key": name, "path": name} for name in names],
    }
    volumes: list[Document] = [
        {"name": "layout", "configMap": {"name": f"{deployment.name}-layout"}},
        {"name": "secrets", "secret": secret},
        {"name": "cache", "emptyDir": {}},
        {"name": "runtime", "emptyDir": {}},
    ]
    mounts: list[Document] = [
        {"name": "layout", "mountPath": str(LAYOUT.parent), "readOnly": True},
        {"name": "secrets", "mountPath": str(SECRETS), "readOnly": True},
        {"name": "cache", "mountPath": CACHE},
        {"name": "runtime", "mountPath": str(RUNTIME)},
    ]
    folder, claim = deployment.model.folder, deployment.model.claim
    if folder is not None:
        there: Document = {"hostPath": {"path": folder, "type": "Directory"}}
        there = {"persistentVolumeClaim": {"claimName": claim, "readOnly": True}} if claim is not None else there
        volumes.append({"name": "model", **there})
        mounts.append({"name": "model", "mountPath": folder, "readOnly": True})
    return volumes, mounts
