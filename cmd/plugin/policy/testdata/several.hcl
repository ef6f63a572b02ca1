# Policy "web". With -role there is a script that writes each under its name.
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

# Policy "web-shop-unnamed". With -role there is a script that writes each under its name.
# Task "app/unnamed"
# Task "unnamed" names no role: set role = "web-shop-unnamed" in its config block, or the plugin's default role (nomad-workloads) is used, which other jobs have, too.
# Not here: secret "b": its path "secret/${meta.team}/b" is known only when Nomad starts the task. Write its policy by hand.

# Guessed: team kv/ is a KV version 2. If it is not, say so: -mount team kv=kv1, or ask a server: VAULT_ADDR, VAULT_TOKEN.
path "team kv/data/a" {
  capabilities = ["read"]
}

# Policy "legacy". With -role there is a script that writes each under its name.
# Task "app/vault"
# from_policies = "env": the task gets what this policy grants, whatever that is. Add the paths that it is to have.

# Vault's policy default has the rest: to renew and revoke the token, and to renew leases. A role that does
# without it (token_no_default_policy) needs the lines of jobs/default-policy.hcl, too.
