# A task of each driver that is attacked while the plugin is upgraded.
job "to-channels" {
  group "g" {
    dynamic "task" {
      for_each = ["docker", "raw_exec"]
      labels   = [task.value]
      content {
        driver = task.value
        identity {
          name     = "vault"
          aud      = ["vault.io"]
          ttl      = "1h"
          file     = true
          filepath = "private/vault.jwt"
        }
        config {
          image   = task.value == "docker" ? "${meta.image}" : null
          command = "/bin/sh"
          args    = ["-c", "echo start $COLOUR; exec sleep 1000"]
          role    = "to-channels"
          splay   = "0s"
          stagger = "0s"
          secret "a" {
            path = "secret/to-channels"
            env  = { COLOUR = "colour" }
          }
        }
        resources {
          cpu    = 20
          memory = 32
        }
      }
    }
  }
}
