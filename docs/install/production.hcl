data_dir   = "/opt/nomad/data"
plugin_dir = "/opt/nomad/plugins"

client {
  enabled = true
  servers = ["nomad.example.com"]
}

plugin "docker" {
  config {
    # the built-in driver's own options, as ever
    secrets {
      address = "https://vault.example.com:8200" # Nomad Variables need none
      metrics {
        address = "127.0.0.1:9641"
      }
    }
  }
}

plugin "raw_exec" {
  config {
    enabled = true
    secrets {
      address = "https://vault.example.com:8200"
      metrics {
        address = "127.0.0.1:9642"
      }
    }
  }
}
