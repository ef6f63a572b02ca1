path "database/creds/app" {
  capabilities = ["read"]
}

# path "secret/app-1" is a KV v2 secret: the policy names it as the API does, with data/.
path "secret/data/app-1" {
  capabilities = ["read"]
}

# To revoke a lease when its successor is in use. Without it an old lease lives until its TTL.
path "sys/leases/revoke" {
  capabilities = ["update"]
}
