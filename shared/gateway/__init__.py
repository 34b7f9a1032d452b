"""Gatewayz: an OpenAI-compatible inference API that sells credits."""

VERSION = "0.1.0"
