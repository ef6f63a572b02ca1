# What the driver needs of Vault's own policy `default`. Every token has that policy, unless its role says
# token_no_default_policy: then the role's own policy must have these lines, beside the paths of its secrets.
path "auth/token/renew-self" {
  capabilities = ["update"]
}

# At the task's end, and when the token reaches its maximum and is replaced.
path "auth/token/revoke-self" {
  capabilities = ["update"]
}

path "sys/leases/renew" {
  capabilities = ["update"]
}

# To see that a lease was revoked by somebody else.
path "sys/leases/lookup" {
  capabilities = ["update"]
}

# Only for from_policies.
path "sys/internal/ui/resultant-acl" {
  capabilities = ["read"]
}
