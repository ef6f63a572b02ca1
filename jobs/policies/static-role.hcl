path "database/static-creds/reports" {
  capabilities = ["read"]
}
