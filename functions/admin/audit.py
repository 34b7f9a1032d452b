"""…"""

from __future__ import annotations

from fastapi import APIRouter

from gateway.http.body import StrictRoute

router = APIRouter(route_class=StrictRoute)
