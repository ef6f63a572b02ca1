path "secret/data/tls/web" {
  capabilities = ["read"]
}
