# path "secret/app-1" is a KV v2 secret: the policy names it as the API does, with data/.
path "secret/data/app-1" {
  capabilities = ["read"]
}
