job "demo" {
  # Never on a node without the plugin, where the task would start without its secrets.
  constraint {
    attribute = "${attr.driver.docker.secrets}"
    operator  = "is_set"
  }
  group "demo" {
    task "web" {
      driver = "docker"

      # Nomad writes a token for Vault to where only the plugin looks.
      identity {
        name     = "vault"
        aud      = ["vault.io"]
        ttl      = "1h"
        file     = true
        filepath = "private/vault.jwt"
      }

      config {
        image        = "${meta.image}"
        network_mode = "host"
        command      = "testapp" # logs in to MariaDB, over and over
        args         = ["dblogin"]

        secret "db" {
          path  = "database/creds/demo"
          env   = { DB_USER = "username", DB_PASSWORD = "password" }
          splay = "1s"
        }
      }
      env {
        DB_ADDR = "${meta.db_addr}"
      }
    }
  }
}
