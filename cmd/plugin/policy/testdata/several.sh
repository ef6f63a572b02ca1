#!/bin/sh
# Vault's policies and JWT roles for job "web shop".
# Vault's policy default has the rest: to renew and revoke the token, and to renew leases. A role that does
# without it (token_no_default_policy) needs the lines of jobs/default-policy.hcl, too.
set -e

vault policy write 'web' - <<'POLICY'
# Tasks "app/app", "app/sidecar"

path "database/creds/app" {
  capabilities = ["read"]
}

path "pki/issue/web" {
  capabilities = ["update"]
}

# secret/ is a KV version 2: the policy names secret/app-1 as the API does, with data/.
path "secret/data/app-1" {
  capabilities = ["read"]
}

# To revoke a lease when its successor is in use, and at the task's end. Without it a lease lives until its TTL.
path "sys/leases/revoke" {
  capabilities = ["update"]
}
POLICY

vault write 'auth/jwt-nomad/role/web' - <<'ROLE'
{
  "role_type": "jwt",
  "bound_audiences": [
    "vault.example.com",
    "vault.io"
  ],
  "bound_claims": {
    "nomad_namespace": "shop",
    "nomad_job_id": "web shop",
    "nomad_task": [
      "app",
      "sidecar"
    ]
  },
  "user_claim": "/nomad_job_id",
  "user_claim_json_pointer": true,
  "token_type": "service",
  "token_period": "30m",
  "token_policies": [
    "web"
  ]
}
ROLE

vault policy write 'web-shop-unnamed' - <<'POLICY'
# Task "app/unnamed"
# Task "unnamed" names no role: set role = "web-shop-unnamed" in its config block, or the plugin's default role (nomad-workloads) is used, which other jobs have, too.
# Not here: secret "b": its path "secret/${meta.team}/b" is known only when Nomad starts the task. Write its policy by hand.

# Guessed: team kv/ is a KV version 2. If it is not, say so: -mount team kv=kv1, or ask a server: VAULT_ADDR, VAULT_TOKEN.
path "team kv/data/a" {
  capabilities = ["read"]
}
POLICY

vault write 'auth/jwt-nomad/role/web-shop-unnamed' - <<'ROLE'
{
  "role_type": "jwt",
  "bound_audiences": [
    "vault.io"
  ],
  "bound_claims": {
    "nomad_namespace": "shop",
    "nomad_job_id": "web shop",
    "nomad_task": [
      "unnamed"
    ]
  },
  "user_claim": "/nomad_job_id",
  "user_claim_json_pointer": true,
  "token_type": "service",
  "token_period": "30m",
  "token_policies": [
    "web-shop-unnamed"
  ]
}
ROLE

vault policy write -namespace='teams/a' 'legacy' - <<'POLICY'
# Task "app/vault"
# from_policies = "env": the task gets what this policy grants, whatever that is. Add the paths that it is to have.
POLICY

vault write -namespace='teams/a' 'auth/jwt-nomad/role/legacy' - <<'ROLE'
{
  "role_type": "jwt",
  "bound_audiences": [
    "vault.io"
  ],
  "bound_claims": {
    "nomad_namespace": "shop",
    "nomad_job_id": "web shop",
    "nomad_task": [
      "vault"
    ]
  },
  "user_claim": "/nomad_job_id",
  "user_claim_json_pointer": true,
  "token_type": "service",
  "token_period": "30m",
  "token_policies": [
    "legacy"
  ]
}
ROLE
