path "ssh/sign/deploy" {
  capabilities = ["update"]
}
