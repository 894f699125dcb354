"""Kubernetes manifests, Helm commands and charts."""

from __future__ import annotations
