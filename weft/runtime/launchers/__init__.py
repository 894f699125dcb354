"""Launchers: how torchrun, Slurm, Ray, Kubernetes and Docker compose start weft's hosts. They place, weft watches."""
