path "aws/sts/app" {
  capabilities = ["update"]
}

# To revoke a lease when its successor is in use: Vault forgets it, AWS does not.
path "sys/leases/revoke" {
  capabilities = ["update"]
}
