path "secret/data/tls/acme-web" {
  capabilities = ["read"]
}
