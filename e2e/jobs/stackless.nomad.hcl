# With this stack no program lives to its first line.
job "stackless" {
  type = "batch"
  group "g" {
    restart {
      attempts = 1
      delay    = "0s"
      mode     = "fail"
    }
    reschedule {
      attempts  = 0
      unlimited = false
    }
    task "app" {
      driver = "docker"
      identity {
        name     = "vault"
        aud      = ["vault.io"]
        ttl      = "1h"
        file     = true
        filepath = "private/vault.jwt"
      }
      config {
        image   = "${meta.image}"
        command = "testapp"
        args    = ["sleep"]
        role    = "stackless"
        ulimit {
          stack = "4096"
        }
        secret "app" {
          path = "secret/stackless"
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
