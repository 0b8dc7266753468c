"""Modelway's compiler: specs of models, resources and alerts become Kubernetes manifests in Git."""

__version__ = "0.1.0"
