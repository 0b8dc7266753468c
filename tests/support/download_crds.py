"""Download the published CRDs that tests check objects against: ``download_crds.py FOLDER``.

Each is pinned by commit and by the digest of the file; with anything else the download fails.
"""

from __future__ import annotations

import hashlib
import sys
import urllib.request
from pathlib import Path
from typing import NamedTuple


class Crd(NamedTuple):
    """A file of a public repository."""

    folder: str
    repository: str
    commit: str
    path: str
    sha256: str


CRDS = (
    Crd(
        "argo-rollouts",
        "argoproj/argo-rollouts",
        "9f8d111d8f8e3e88b6d7f8bbdf62fd3cd863ef9d",
        "manifests/crds/rollout-crd.yaml",
        "4c4f84b29ee91ea5ca8f86b2f019f168f2091821a661b78e3cb3d0dc0f9baf1d",
    ),
    Crd(
        "argo-rollouts",
        "argoproj/argo-rollouts",
        "9f8d111d8f8e3e88b6d7f8bbdf62fd3cd863ef9d",
        "manifests/crds/analysis-template-crd.yaml",
        "5e25e2bdd3851b75707732207e4d79ddd4ebdb69f95cf058cf539f0186678948",
    ),
    Crd(
        "prometheus-operator",
        "prometheus-operator/prometheus-operator",
        "6adcebc5076c34f4f55f8f5f7b1e528929373ac7",
        "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
        "78be98554b9c8506ab2b4f4feb91c5f3a56e536a0a510f3a8e876a459970d56d",
    ),
    Crd(
        "prometheus-operator",
        "prometheus-operator/prometheus-operator",
        "6adcebc5076c34f4f55f8f5f7b1e528929373ac7",
        "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml",
        "45a93443daa687d3654f7e9631909ff7edcdf3ec09c5e60251b74aa2722aee5d",
    ),
    Crd(
        "keda",
        "kedacore/keda",
        "8b4f083ca8c8c2baf8477e322bd4d16ac4dfa09a",
        "config/crd/bases/keda.sh_scaledobjects.yaml",
        "207afc4ca44fd9e3f4bbfb1c8fae08f3a365e098a52714fe8eb672bbd239cbcd",
    ),
    Crd(
        "gateway-api",
        "kubernetes-sigs/gateway-api",
        "4564255ac2c35d582249b3cdf261bdf51c8bca32",
        "config/crd/standard/gateway.networking.k8s.io_httproutes.yaml",
        "5b746e5dd696239cdf7d1a6dc6293d103fb78056598aa3f2e14f7512dc8c362b",
    ),
    Crd(
        "gateway-api",
        "kubernetes-sigs/gateway-api",
        "4564255ac2c35d582249b3cdf261bdf51c8bca32",
        "config/crd/standard/gateway.networking.k8s.io_grpcroutes.yaml",
        "7c9663161de4131ececfe60a652dae3dacd373bc024f1ac2eb22c1ee8d34f657",
    ),
    Crd(
        "argo-rollouts",
        "argoproj/argo-rollouts",
        "9f8d111d8f8e3e88b6d7f8bbdf62fd3cd863ef9d",
        "manifests/crds/analysis-run-crd.yaml",
        "2c310d2e07539a196564e4c4e60f2b3530460541437e48175a3d38e646aeda79",
    ),
    Crd(
        "argo-cd",
        "argoproj/argo-cd",
        "37ee0097cf851bc2dd7665fc081bbce61a7e836e",
        "manifests/crds/application-crd.yaml",
        "9fd0da3e7097ad6d1af614fabd5c960bc7ddb00d768c3ef485a2fda6e9460df8",
    ),
    Crd(
        "argo-cd",
        "argoproj/argo-cd",
        "37ee0097cf851bc2dd7665fc081bbce61a7e836e",
        "manifests/crds/applicationset-crd.yaml",
        "3dd600079b67cbb5d7b87750464914c1cc62a977cf364b8004c6875fa1fb3f0f",
    ),
    Crd(
        "argo-cd",
        "argoproj/argo-cd",
        "37ee0097cf851bc2dd7665fc081bbce61a7e836e",
        "manifests/crds/appproject-crd.yaml",
        "ab225266944322750136f1198d93786e4a79a0e43c8d149abfba44da30a3eac8",
    ),
)


def main(target: Path) -> None:
    for crd in CRDS:
        url = f"https://raw.githubusercontent.com/{crd.repository}/{crd.commit}/{crd.path}"
        with urllib.request.urlopen(url, timeout=60) as answer:
            data = answer.read()
        if hashlib.sha256(data).hexdigest() != crd.sha256:
            sys.exit(f"{url}: the digest is not the pinned one")
        file = target / crd.folder / Path(crd.path).name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        print(file)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
