plugin_dir = "/opt/nomad/plugins"

plugin "docker" {
  config {
    gc {
      dangling_containers {
        enabled = false
      }
    }
  }
}

plugin "docker-secrets" {
  config {
    secrets {
      address = "https://vault.example.com:8200"
    }
  }
}
