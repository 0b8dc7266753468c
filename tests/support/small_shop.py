"""The smallest specs that have everything: two environments, a resource, a model and an alert."""

from __future__ import annotations

HEAD = "apiVersion: modelway.dev/v1alpha1\n"
ZEROS = "sha256:" + "0" * 64
SETTINGS = 'requires: "0.1"\n'
LOCAL = f"""{HEAD}kind: Environment
metadata: {{name: local}}
spec: {{requireDigests: false, monitoring: {{retention: 30d}}}}
"""
PROD = f"""{HEAD}kind: Environment
metadata: {{name: prod}}
spec:
  cluster:
    kubernetes: "1.36"
    addOns: {{rollouts: true, gatewayAPI: true, keda: true, prometheusOperator: true, imageVolumes: true}}
  gateway: {{name: inference, namespace: gateway, domain: models.shop.example}}
  monitoring: {{retention: 30d}}
  images: {{server: "registry.example/modelway/runtime@{ZEROS}"}}
  gpus: {{l4: {{nodeLabel: NVIDIA-L4, count: 4, perNode: 4}}}}
"""
CPU = f"""{HEAD}kind: Resource
metadata: {{name: cpu-small}}
spec: {{cpu: "2", memory: 4Gi, cost: {{perHour: "0.1"}}}}
"""
MODEL = f"""{HEAD}kind: Model
metadata: {{name: ranker, team: search}}
spec:
  version: 46.1.0
  artifact: {{uri: "s3://shop-models/ranker.onnx", format: onnx, digest: "{ZEROS}"}}
  serving: {{resource: cpu-small}}
"""
ALERT = f"""{HEAD}kind: Alert
metadata: {{name: ranker-slo, team: search}}
spec:
  target: {{model: ranker}}
  objectives: {{availability: {{target: 99.9}}}}
"""
