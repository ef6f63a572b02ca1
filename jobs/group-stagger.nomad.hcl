# Three allocations that act one after another when the secret changes: each waits its index × stagger,
# and a random part of splay. So a change never restarts the whole group at once.
job "group-stagger" {
  group "app" {
    count = 3

    constraint {
      attribute = "${attr.driver.docker.secrets}"
      operator  = "is_set"
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
        image   = "secrets-demo/busybox:1"
        command = "sh"
        args    = ["-c", "trap exit INT TERM; while true; do sleep 1; done"]
        role    = "group-stagger"

        secret "app" {
          path       = "secret/app-1"
          env_prefix = "APP_"
          splay      = "1s"
          stagger    = "15s"
        }
      }
    }
  }
}
