# A task of each driver, with a secret that restarts it and one that does not.
job "upgrade" {
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
          command = "testapp"
          args    = ["sleep"]
          role    = "upgrade"
          splay   = "0s"
          stagger = "0s"
          secret "a" {
            path = "secret/upgrade-restart"
            env  = { RESTART = "value" }
          }
          secret "b" {
            path        = "secret/upgrade-noop"
            env         = { NOOP = "value" }
            change_mode = "noop"
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
