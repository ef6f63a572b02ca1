plugin_dir = "/opt/nomad/plugins"

plugin "docker" {
  config {
    secrets {
      # address = "http://127.0.0.1:8200" # for secrets of Vault's; Nomad Variables need none
    }
  }
}

plugin "raw_exec" {
  config {
    enabled = true
    secrets {}
  }
}
