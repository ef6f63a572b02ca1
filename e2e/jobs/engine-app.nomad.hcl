# A task with a lease that is renewed every few seconds, and a secret whose change restarts it. It prints a file on
# each SIGHUP. ENGINE is for the sweep after a run that was killed: that engine is not there to be asked for its
# containers.
job "engine-app" {
  group "g" {
    restart {
      attempts = 10
      interval = "10m"
      delay    = "10s" # the engine is back by then: a start without it is refused for good
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
      env {
        ENGINE = "${meta.engine}"
      }
      config {
        image        = "${meta.image}"
        network_mode = "none"
        command      = "testapp"
        args         = ["sighup", "/etc/passwd"]
        role         = "engine-app"
        secret "db" {
          path = "database/creds/engine-app"
          env  = { DB_USER = "username", DB_PASSWORD = "password" }
        }
        secret "kv" {
          path  = "secret/engine-app"
          env   = { COLOUR = "colour" }
          splay = "0s"
        }
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}
