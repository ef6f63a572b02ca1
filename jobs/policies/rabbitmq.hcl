path "rabbitmq/creds/app" {
  capabilities = ["read"]
}

# To revoke a lease when its successor is in use. Without it an old lease lives until its TTL.
path "sys/leases/revoke" {
  capabilities = ["update"]
}
