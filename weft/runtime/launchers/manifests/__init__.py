"""Manifests: what starts a layout's hosts as containers, as documents for Kubernetes and Docker compose."""
