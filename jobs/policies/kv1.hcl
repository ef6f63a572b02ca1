path "kv1/app" {
  capabilities = ["read"]
}
