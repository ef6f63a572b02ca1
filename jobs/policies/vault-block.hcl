path "database/creds/app" {
  capabilities = ["read"]
}

# To revoke leases at a rotation and at the task's end: the token is Nomad's, which outlives both.
path "sys/leases/revoke" {
  capabilities = ["update"]
}
