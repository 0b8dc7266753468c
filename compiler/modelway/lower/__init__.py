"""Resolved specs -> Kubernetes objects, by concern. Functions from values to values; no disk, no clock."""
