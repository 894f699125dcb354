"""Kubernetes manifests."""

from __future__ import annotations
