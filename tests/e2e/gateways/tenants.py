"""LiteLLM's custom_auth: tenants by the name of their key, with limits and without a database."""

from litellm.proxy._types import UserAPIKeyAuth

LIMITS = {
    "sk-tenant-rpm": {"rpm_limit": 1},
    "sk-tenant-roomy": {"rpm_limit": 10},
    "sk-tenant-tpm": {"tpm_limit": 5},
    "sk-tenant-team": {"team_id": "team-a", "team_rpm_limit": 1},
    "sk-tenant-parallel": {"max_parallel_requests": 1},
}


async def user_api_key_auth(request, api_key):
    return UserAPIKeyAuth(api_key=api_key, **LIMITS.get(api_key, {}))
