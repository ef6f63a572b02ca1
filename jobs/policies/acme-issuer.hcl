path "secret/data/acme/*" {
  capabilities = ["create", "read", "update"]
}
path "secret/data/tls/acme-web" {
  capabilities = ["create", "read", "update"]
}
path "secret/data/acme-dns" {
  capabilities = ["read"]
}
