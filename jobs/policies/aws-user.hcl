path "aws/creds/user" {
  capabilities = ["read"]
}

# To revoke a lease when its successor is in use. Without it an old user lives until its lease's TTL.
path "sys/leases/revoke" {
  capabilities = ["update"]
}
