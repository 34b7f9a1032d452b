"""What every test may ask for."""

from __future__ import annotations

import os

# gateway.settings reads the environment once, at import
os.environ |= {
    "STAGE": "dev",
    "KEY_PEPPERS": "v1:a-pepper-for-tests-only",
    "SEALING_KEYS": "c2VhbGluZy1rZXktZm9yLXRlc3RzLW9ubHktMDAwMDE=",
    "STRIPE_SECRET_KEY": "sk_test_only",
    "STRIPE_WEBHOOK_SECRET": "whsec_only_for_tests",
    "STRIPE_BASE_URL": "http://127.0.0.1:1",
    "DATABASE_URL": "postgresql://gateway@127.0.0.1:1/gateway",
}

pytest_plugins = [
    "tests.harness.postgres",
    "tests.harness.project",
    "tests.harness.builders",
    "tests.harness.cloud",
    "tests.harness.gateway",
    "tests.harness.issuer",
    "tests.harness.stripe",
    "tests.harness.mailbox",
    "tests.harness.upstream",
    "tests.harness.built",
    "tests.harness.events",
]
