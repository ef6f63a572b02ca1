# Leased credentials in a container, read with the task's own identity. The lease is renewed while
# the task runs, replaced before its max_ttl, and revoked when the task ends.
job "docker-database" {
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
        role    = "docker-database"

        stop_timeout = "3s" # for restarts by rotation; Nomad does not tell a driver the job's kill_timeout

        secret "db" {
          path = "database/creds/app"
          env  = { DB_USER = "username", DB_PASSWORD = "password" }

          file "db.env" {
            template = "user={{ .username }}\npassword={{ .password }}\n"
          }
        }
      }
    }
  }
}
