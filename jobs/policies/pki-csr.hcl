path "pki/sign/web" {
  capabilities = ["update"]
}
