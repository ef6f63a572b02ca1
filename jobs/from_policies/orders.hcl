path "database/creds/orders-db" {
  capabilities = ["read"]
}

path "rabbitmq/creds/orders-mq" {
  capabilities = ["read"]
}

# Every secret below orders/: to find them, they must be listed.
path "secret/data/orders/*" {
  capabilities = ["read"]
}

path "secret/metadata/orders/*" {
  capabilities = ["list"]
}

# To revoke leases at a rotation and at the task's end: the token is Nomad's, which outlives both.
path "sys/leases/revoke" {
  capabilities = ["update"]
}
