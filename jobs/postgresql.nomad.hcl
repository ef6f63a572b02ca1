# A PostgreSQL user of the task's own, under the names that libpq looks for. It lives as long as the task
# does, and is replaced, with a restart in place, before its max_ttl.
job "postgresql" {
  group "app" {
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
        role    = "postgresql"

        secret "db" {
          path = "database/creds/pg-app"
          env  = { PGUSER = "username", PGPASSWORD = "password" }
        }
      }
    }
  }
}
